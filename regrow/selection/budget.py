"""Computes how many neurons a sparsity keeps, exactly for the decimal that the user wrote."""

from __future__ import annotations

import math
from decimal import Decimal, InvalidOperation
from fractions import Fraction

from regrow.errors import UsageError

Sparsity = Decimal | float | str


def parse_sparsity(sparsity: Sparsity) -> Decimal:
    """Returns the sparsity as the decimal that the user wrote.

    A float is read as its shortest decimal, so 0.9 is nine tenths. Raises UsageError unless the value is a
    number in [0, 1).
    """
    try:
        value = Decimal(str(sparsity))
    except InvalidOperation:
        value = Decimal("NaN")
    if isinstance(sparsity, bool) or not value.is_finite() or not 0 <= value < 1:
        raise UsageError(f"sparsity must be a number in [0, 1), not {sparsity!r}; 0.5 drops half")
    return value


def keep_count(sparsity: Decimal, total: int, what: str = "neurons") -> int:
    """Returns k = floor((1 - rho) F), the number of neurons of one layer that a sparse step computes.

    `total` is F. Raises UsageError if k is 0; `what` names the neurons (or inputs) in the message.
    """
    # A Fraction is exact; Decimal arithmetic would round to the precision of the current context.
    keep = math.floor((1 - Fraction(sparsity)) * total)
    if keep == 0:
        highest = math.floor(Fraction(total - 1, total) * 10**6) / 10**6
        raise UsageError(f"sparsity {sparsity} keeps none of {total} {what}; lower it to at most {highest}")
    return keep
