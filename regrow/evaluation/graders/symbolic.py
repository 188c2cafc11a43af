"""Mathematics, by math-verify and sympy. It can take any time and memory: see `judge.py`."""

from __future__ import annotations

import re
from typing import Any, Final

from regrow.evaluation.graders.same_values import same_values

_SMALLEST_SHARE: Final = 1e-6  # relative difference of equal numbers; math-verify alone has an absolute one
_ROUNDING: Final = 1e-12  # relative difference of one number, computed in two ways in floating point
_DIGITS: Final = 30  # with which constants are evaluated

# latex2sympy reads E as Euler's number, and cannot read E_1. Ξ stands in for it, which no answer uses.
# It also reads \\gamma^{2} - 1 as the gamma function, which is infinite at -1: \\Upsilon stands in for that.
_SUBSCRIPTED_E = re.compile(r"(?<![a-zA-Z\\])E(?=_)")
_GAMMA = re.compile(r"\\gamma(?![a-zA-Z])")


def equivalent(gold: str, given: str) -> bool:
    r"""Returns whether two tidied answers are equal as mathematics.

    Expressions that have the same values are equal. Otherwise math-verify decides. Its verdict on two real
    numbers is corrected: it rounds to six digits after the point, so that all numbers below 1e-6 would be
    equal, and large products of decimals would not.
    """
    from math_verify import verify  # type: ignore[import-untyped]

    golds, answers = _parsed(gold), _parsed(given)
    if golds and answers and same_values(golds[0], answers[0]):
        return True
    verdict = bool(verify(golds, answers, timeout_seconds=None, allow_set_relation_comp=True))
    apart = _apart(golds, answers)
    if apart is None:
        return verdict
    return apart <= _ROUNDING or (verdict and apart <= _SMALLEST_SHARE)


def close(gold: str, given: str, relative: float) -> bool:
    """Returns whether two tidied answers are real numbers that differ by at most this share."""
    apart = _apart(_parsed(gold), _parsed(given))
    return apart is not None and apart <= relative


def _parsed(answer: str) -> list[Any]:
    """Returns the answer as sympy expressions, followed by its text; empty if nothing can be read."""
    from math_verify import LatexExtractionConfig, parse
    from math_verify.parser import NormalizationConfig  # type: ignore[import-untyped]

    # Units are off, because `\\frac{1}{m} t` would lose its t. They were removed with more care before.
    cleaning = NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="all", equations=False
    )
    # Only the whole answer counts: math-verify would also look for a fraction in what it cannot parse.
    read = LatexExtractionConfig(
        boxed_match_priority=0, try_extract_without_anchor=False, normalization_config=cleaning
    )
    text = _GAMMA.sub(r"\\Upsilon ", _SUBSCRIPTED_E.sub(r"\\Xi ", answer))
    parsed: list[Any] = parse(
        f"\\boxed{{{text}}}", [read], extraction_mode="first_match", parsing_timeout=None
    )
    return parsed


def _apart(golds: list[Any], answers: list[Any]) -> float | None:
    """Returns the relative difference of two real numbers; None if the answers are not both real numbers."""
    gold, given = _number(golds), _number(answers)
    if gold is None or given is None:
        return None
    largest = max(abs(gold), abs(given))
    return float(abs(gold - given) / largest) if largest else 0.0


def _number(parsed: list[Any]) -> Any:
    """Returns the value of a constant real expression, as a sympy number; None for anything else."""
    from sympy import Expr

    if not parsed or not isinstance(parsed[0], Expr) or parsed[0].free_symbols:
        return None
    try:
        value = parsed[0].doit().evalf(_DIGITS)
        return value if value.is_Number and value.is_finite else None
    except Exception:  # noqa: BLE001 - sympy raises what it likes on expressions that have no value
        return None
