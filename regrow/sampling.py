"""Greedy decoding, or sampling with a seed. Standard library only."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self, final


@final
@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen, as the options say.

    Temperature and top-p replace the model's own values. All other generation settings of the model apply.
    """

    temperature: float = 0.0  # 0: greedy
    top_p: float | None = None  # None: the model's own value, or else all tokens
    seed: int | None = None  # None: greedy
    drawn: bool = False  # the seed was drawn at random, because the user gave none

    @property
    def given(self) -> frozenset[str]:
        """Names of the model's generation settings that the options replace."""
        return frozenset(("temperature",) if self.top_p is None else ("temperature", "top_p"))

    def arguments(self, model_top_k: int | None) -> dict[str, Any]:
        """Returns the arguments for `generate`.

        By default transformers samples from the 50 most likely tokens only. Here top_k applies only if the
        model itself sets it.
        """
        if not self.temperature:
            return {"do_sample": False}
        top_p = {} if self.top_p is None else {"top_p": self.top_p}
        return {"do_sample": True, "temperature": self.temperature, "top_k": model_top_k or 0, **top_p}

    def batch_seed(self, start: int) -> int:
        """Returns the seed of the batch whose first prompt has the index `start`.

        Every batch has its own seed, so it can be sampled again without the batches before it.
        """
        return int.from_bytes(hashlib.sha256(f"{self.seed}:{start}".encode()).digest()[:7])

    def as_before(self, settings: Mapping[str, Any] | None) -> Self:
        """Returns these settings with the seed of an earlier run, unless the user gave a seed.

        `settings`: those of the earlier run, or None.
        """
        before = (settings or {}).get("sampling")
        seed = before.get("seed") if isinstance(before, dict) else None
        return replace(self, seed=seed) if self.drawn and type(seed) is int else self

    def to_dict(self) -> dict[str, Any]:
        if not self.temperature:
            return {"temperature": 0.0}
        top_p = {"top_p": self.top_p} if self.top_p is not None else {}
        return {"temperature": self.temperature, **top_p, "seed": self.seed}

    @property
    def text(self) -> str:
        """The settings in words, such as `temperature=0.6, seed=7`; `greedy` without a temperature."""
        if not self.temperature:
            return "greedy"
        return ", ".join(f"{name}={value}" for name, value in self.to_dict().items())
