"""Two methods on the same prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from random import Random
from statistics import NormalDist
from typing import final

from regrow.records import Grade

FLIPS = 9999


@final
@dataclass(frozen=True)
class Paired:
    """The difference of two shares of problems right, as a share; its 95 % interval and p-value take prompts, not problems, as
    independent."""

    difference: float
    low: float
    high: float
    p: float  # two-sided, of no difference: a sign-flip permutation test over prompts


def paired(one: Sequence[Grade], other: Sequence[Grade]) -> Paired:
    """`one` minus `other`, grade by grade on the same prompts. Raises ValueError where they are not, or where there are none."""
    if not one or [grade.total for grade in one] != [grade.total for grade in other]:
        raise ValueError("the grades are not of the same prompts")
    problems = sum(grade.total for grade in one)
    gains = [a.right - b.right for a, b in zip(one, other, strict=True)]
    difference = sum(gains) / problems
    # The ratio's residuals, prompt by prompt (linearisation): prompts hold different numbers of problems.
    residuals = [gain - difference * grade.total for gain, grade in zip(gains, one, strict=True)]
    spread = sqrt(sum(r * r for r in residuals) * len(gains) / max(1, len(gains) - 1)) / problems
    half = NormalDist().inv_cdf(0.975) * spread
    return Paired(difference, max(-1.0, difference - half), min(1.0, difference + half), _flips(gains))


def _flips(gains: Sequence[int]) -> float:
    """How often a sum of the gains with signs drawn anew is at least as far from zero; the sum itself counts as one draw."""
    moved, rng = [gain for gain in gains if gain], Random(0)
    total = abs(sum(moved))
    reached = sum(abs(sum(gain if rng.getrandbits(1) else -gain for gain in moved)) >= total for _ in range(FLIPS))
    return (reached + 1) / (FLIPS + 1)
