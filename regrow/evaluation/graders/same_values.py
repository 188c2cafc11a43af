"""Compares expressions by their values: simplification often fails where the values leave no doubt."""

from __future__ import annotations

from cmath import isfinite
from collections.abc import Sequence
from typing import Any, Final

_POINTS: Final = 3  # at which expressions are evaluated
_DIGITS: Final = 30
_AGREE: Final = 1e-12  # relative difference of equal values; rounding to 16 digits leaves 1e-15


def same_values(one: Any, other: Any) -> bool:
    r"""Returns whether two sympy expressions with symbols have the same values, wherever they are evaluated.

    The symbols are positive, as most quantities of the sciences are: `r\sqrt{a}` equals `\sqrt{a r^2}`.
    Absolute values are therefore not compared. Of equations, both sides are subtracted, and all values may
    differ by the same factor. The symbol i is the imaginary unit. False also means that this cannot tell.
    """
    from sympy import Abs, Derivative, Eq, Expr, Integral, Limit, Product, Sum
    from sympy.core.function import AppliedUndef

    equations = isinstance(one, Eq) and isinstance(other, Eq)
    for side in (*one.args, *other.args) if equations else (one, other):
        if not isinstance(side, Expr) or side.has(Abs, Derivative, Integral, Limit, Product, Sum):
            return False
    if equations:
        one, other = one.lhs - one.rhs, other.lhs - other.rhs
    if not (one.free_symbols and other.free_symbols):
        return False
    found = {quantity for side in (one, other) for quantity in side.atoms(AppliedUndef) | side.free_symbols}
    # By name: math-verify's symbols are real or not, which depends on the rest of the answer.
    names = sorted({str(quantity) for quantity in found})
    # Functions such as x(t) come before the symbols that they hold.
    quantities = [
        (quantity, names.index(str(quantity)))
        for quantity in sorted(found, key=lambda quantity: not quantity.args)
    ]
    try:
        pairs = [
            (_value(one, quantities, point), _value(other, quantities, point)) for point in range(_POINTS)
        ]
    except Exception:  # noqa: BLE001 - sympy raises what it likes on expressions that have no value
        return False
    if not all(isfinite(left) and isfinite(right) and right for left, right in pairs):
        return False
    ratios = [left / right for left, right in pairs]
    wanted = ratios[0] if equations else 1
    return all(abs(ratio - wanted) <= _AGREE * abs(wanted) for ratio in ratios)


def _value(expression: Any, quantities: Sequence[tuple[Any, int]], point: int) -> complex:
    """Returns the value of an expression at one of the points. Raises an error if it has none.

    A quantity comes with the place of its name: every name has a value of its own, the root of a prime.
    """
    from sympy import I, prime, sqrt

    for quantity, place in quantities:
        root = sqrt(prime(4 + place * _POINTS + point)) / 17
        value = I if str(quantity) == "i" else root.evalf(_DIGITS + 10)
        expression = expression.xreplace({quantity: value})
    return complex(expression.doit().evalf(_DIGITS))
