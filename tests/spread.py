"""Pairs of two sets of values, where there are too many to try them all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


def spread(first: Sequence[A], second: Sequence[B], times: int = 1) -> list[tuple[A, B]]:
    """Return pairs in which each value of `first` occurs `times` times, and those of `second` take turns.

    Each value of `second` occurs too, if `first` has at least so many.
    """
    return [
        (one, second[(at + number) % len(second)]) for at, one in enumerate(first) for number in range(times)
    ]
