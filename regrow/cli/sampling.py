"""Greedy decoding, or sampling that can be repeated."""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from typing import Any, final

from regrow.errors import UsageError


@final
@dataclass(frozen=True)
class Sampling:
    temperature: float = 0.0  # 0: greedy
    top_p: float = 1.0
    seed: int | None = None  # None: greedy

    @property
    def arguments(self) -> dict[str, Any]:
        """For generate; what a model's own configuration would add to sampling is turned off."""
        if not self.temperature:
            return {"do_sample": False}
        return {"do_sample": True, "temperature": self.temperature, "top_p": self.top_p, "top_k": 0}

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) if self.temperature else {"temperature": 0.0}


def sampling(temperature: float | None, top_p: float | None, seed: int | None) -> Sampling:
    """Greedy without a temperature; a seed is drawn where none is given, so that the summary can name it. Raises UsageError."""
    if temperature is not None and not 0 <= temperature < float("inf"):
        raise UsageError(f"--temperature must be a number of at least 0, not {temperature}; 0 is greedy")
    if not temperature:
        lost = [name for name, value in (("--top-p", top_p), ("--seed", seed)) if value is not None]
        if lost:
            raise UsageError(
                f"{lost[0]} is for sampling, and decoding is greedy without --temperature above 0; add it or leave out {lost[0]}"
            )
        return Sampling()
    if top_p is not None and not 0 < top_p <= 1:
        raise UsageError(f"--top-p must lie in (0, 1], not {top_p}")
    if seed is not None and not 0 <= seed < 2**63:
        raise UsageError(f"--seed must be a whole number from 0 to 2^63 - 1, not {seed}")
    return Sampling(temperature, 1.0 if top_p is None else top_p, random.SystemRandom().randrange(2**32) if seed is None else seed)
