"""How many neurons a sparsity keeps, in exact arithmetic on the decimal the user wrote."""

from __future__ import annotations

import math
from decimal import Decimal, InvalidOperation
from fractions import Fraction

from regrow.errors import UsageError

Sparsity = Decimal | float | str


def parse_sparsity(sparsity: Sparsity) -> Decimal:
    """The decimal the user wrote: a float is read as its shortest decimal, so 0.9 is nine tenths.

    Raises UsageError unless it is a number in [0, 1).
    """
    try:
        value = Decimal(str(sparsity))
    except InvalidOperation:
        value = Decimal("NaN")
    if isinstance(sparsity, bool) or not value.is_finite() or not 0 <= value < 1:
        raise UsageError(f"sparsity must be a number in [0, 1), not {sparsity!r}; 0.5 drops half")
    return value


def keep_count(sparsity: Decimal, of: int, what: str = "neurons") -> int:
    """k = floor((1 - rho) F), the neurons of one layer that a sparse step computes. Raises UsageError where that is none."""
    keep = math.floor(
        (1 - Fraction(sparsity)) * of
    )  # Decimal arithmetic would round to the context's precision
    if keep == 0:
        highest = math.floor(Fraction(of - 1, of) * 10**6) / 10**6
        raise UsageError(f"sparsity {sparsity} keeps none of {of} {what}; lower it to at most {highest}")
    return keep
