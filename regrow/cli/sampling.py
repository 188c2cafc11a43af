"""Reads the options of sampling."""

from __future__ import annotations

import random

from regrow.errors import UsageError
from regrow.sampling import Sampling


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
