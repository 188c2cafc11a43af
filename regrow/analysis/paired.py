"""Compares two methods on the same batches of prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from random import Random
from statistics import NormalDist
from typing import final

from regrow.records import Grade

FLIPS = 9999  # random sign flips of the permutation test
Batches = Sequence[Sequence[Grade]]  # a batch: the grades of its prompts


@final
@dataclass(frozen=True)
class Paired:
    """Difference between two shares of right problems, as a share, with its 95 % interval and p-value.

    The independent units are batches, because problems share a prompt and prompts share a mask.
    """

    difference: float
    low: float
    high: float
    p: float  # two-sided, against no difference: sign-flip permutation test over batches


def paired(one: Batches, other: Batches) -> Paired:
    """Returns `one` minus `other`, which are grades of the same prompts in the same batches.

    Raises ValueError if the batches do not match, or if there are none.
    """
    totals = _totals(one)
    if not totals or totals != _totals(other):
        raise ValueError("the grades are not of the same batches")
    problems = sum(map(sum, totals))
    gains = [_right(a) - _right(b) for a, b in zip(one, other, strict=True)]
    difference = sum(gains) / problems
    # The interval comes from the residual of each batch (linearisation of a ratio), because batches hold
    # different numbers of problems.
    residuals = [gain - difference * sum(total) for gain, total in zip(gains, totals, strict=True)]
    spread = sqrt(sum(r * r for r in residuals) * len(gains) / max(1, len(gains) - 1)) / problems
    half = NormalDist().inv_cdf(0.975) * spread
    return Paired(difference, max(-1.0, difference - half), min(1.0, difference + half), _flips(gains))


def _totals(batches: Batches) -> list[list[int]]:
    return [[grade.total for grade in batch] for batch in batches]


def _right(batch: Sequence[Grade]) -> int:
    return sum(grade.right for grade in batch)


def _flips(gains: Sequence[int]) -> float:
    """Share of random sign flips after which the sum of the gains is at least as far from zero as before.

    The gains as they are count as one draw.
    """
    moved, rng = [gain for gain in gains if gain], Random(0)
    total = abs(sum(moved))
    reached = sum(
        abs(sum(gain if rng.getrandbits(1) else -gain for gain in moved)) >= total for _ in range(FLIPS)
    )
    return (reached + 1) / (FLIPS + 1)
