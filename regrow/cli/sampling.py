"""Greedy decoding, or sampling with a seed."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self, final

from regrow.errors import UsageError


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


def sampling(temperature: float | None, top_p: float | None, seed: int | None) -> Sampling:
    """Returns how tokens are chosen, which is greedily without a temperature.

    If there is no seed, one is drawn, so that the summary can name it. Raises UsageError for a value out of
    range, and for options of sampling without a temperature.
    """
    if temperature is not None and not 0 <= temperature < float("inf"):
        raise UsageError(f"--temperature must be a number of at least 0, not {temperature}; 0 is greedy")
    if not temperature:
        lost = [name for name, value in (("--top-p", top_p), ("--seed", seed)) if value is not None]
        if lost:
            raise UsageError(
                f"{lost[0]} is for sampling, and decoding is greedy without --temperature above 0; "
                f"add --temperature or leave out {lost[0]}"
            )
        return Sampling()
    if top_p is not None and not 0 < top_p <= 1:
        raise UsageError(f"--top-p must lie in (0, 1], not {top_p}")
    if seed is not None and not 0 <= seed < 2**63:
        raise UsageError(f"--seed must be a whole number from 0 to 2^63 - 1, not {seed}")
    return Sampling(
        temperature,
        top_p,
        random.SystemRandom().randrange(2**32) if seed is None else seed,
        drawn=seed is None,
    )
