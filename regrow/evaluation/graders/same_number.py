"""Decides whether two numbers are the same answer."""

from __future__ import annotations

from fractions import Fraction
from typing import Final

from regrow.evaluation.graders.plain_number import PlainNumber

_ROUNDED: Final = 6  # digits after the point from which on a decimal may stand for a fraction


def same_number(gold: PlainNumber, given: PlainNumber) -> bool:
    """Returns whether two numbers are equal, exactly, except that a fraction may be given as a decimal.

    The decimal must then have at least six digits after the point, or six that count, and be rounded or cut
    there: math-verify rounds to six digits too. A fixed number of digits after the point alone would make
    all numbers below 1e-6 equal. If just one of the numbers has a percent sign, 50 and 0.5 both equal 50 %.
    """
    return any(_same(gold, given, scale) for scale in _scales(gold, given))


def close_number(gold: PlainNumber, given: PlainNumber, relative: Fraction) -> bool:
    """Returns whether two numbers differ by at most the share `relative` of the gold one."""
    return any(
        abs(gold.value - given.value * scale) <= relative * abs(gold.value) for scale in _scales(gold, given)
    )


def _scales(gold: PlainNumber, given: PlainNumber) -> tuple[Fraction, ...]:
    """Returns the factors by which the given number may be multiplied, because of percent signs."""
    if gold.percent == given.percent:
        return (Fraction(1),)
    return (Fraction(1), Fraction(1, 100) if given.percent else Fraction(100))


def _same(gold: PlainNumber, given: PlainNumber, scale: Fraction) -> bool:
    value = given.value * scale
    if gold.value == value:
        return True
    decimal = given.digits if given.digits is not None else gold.digits
    if (
        decimal is None
        or (gold.digits is not None and given.digits is not None)
        or not gold.value * value > 0
    ):
        return False
    apart = abs(gold.value - value)
    unit = Fraction(1, 10**decimal) * scale
    return apart < unit and (decimal >= _ROUNDED or apart <= abs(gold.value) * Fraction(1, 10**_ROUNDED))
