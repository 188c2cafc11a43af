"""Answers that are one number."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import ClassVar, Final, final

from regrow.evaluation.graders.grader import OneMark
from regrow.evaluation.graders.plain_number import PlainNumber, plain_number
from regrow.evaluation.graders.same_number import close_number
from regrow.evaluation.graders.stated_answer import after_answer_is, after_thinking, last_boxed

_SHARE: Final = Fraction(1, 1_000_000)

# Lengths are limited, so that no text makes the search slow.
_DIGITS = r"\d{1,40}"
_GROUPED = r"\d{1,3}(?:(?:,|\{,\}|\\[,!:;])\d{3}){1,12}(?!\d)"
_DECIMAL = rf"(?:{_GROUPED}(?:\.{_DIGITS})?|{_DIGITS}(?:\.{_DIGITS})?|\.{_DIGITS})"
_EXPONENT = r"(?:\{\s?[+-]?\d{1,4}\s?\}|\([+-]?\d{1,4}\)|[+-]?\d{1,4})"
_POWER = rf"\s?(?:\\times|\\cdot|×|·|\*)\s?10\s?(?:\^|\*\*)\s?{_EXPONENT}"
_FRACTION = rf"(?:{_DIGITS}\s?)?\\[dtc]?frac\s?(?:\{{-?[\d.]{{1,40}}\}}|\d)\s?(?:\{{[\d.]{{1,40}}\}}|\d)"
_SLASHED = rf"(?:{_DIGITS}\s)?{_DECIMAL}\s?/\s?{_DECIMAL}"
_UNSIGNED = rf"(?:{_FRACTION}|{_SLASHED}|{_DECIMAL}(?:[eE][+-]?\d{{1,4}}|{_POWER})?)"
_CURRENCY = r"(?:\\?\$\s?|[€£¥]\s?)?"
# A minus sign after a letter, digit or closing bracket is a hyphen or a subtraction.
_MINUS = r"(?:(?<![\w)\]}.])[-+−]\s?)?"
_NUMBER = re.compile(
    rf"{_MINUS}{_CURRENCY}{_MINUS}(?<![\w.])(?:{_UNSIGNED})(?:\s?(?:\\?%|percent\b))?", re.ASCII
)


@final
class Number(OneMark):
    r"""Compares one number: the last one in the last box, else after "answer is", else in the whole answer.

    Numbers are equal if they differ by at most 1e-6 of the gold one: a fraction given as a decimal has at
    least six digits then, and any two integers below a million stay apart. Thousands separators, currency
    signs and units do not count; a percent sign counts neither if the other side has none.
    """

    name: ClassVar[str] = "number"
    summary: ClassVar[str] = "one number: the last boxed one, else after 'answer is', else the last one"

    def strict(self, gold: str, text: str) -> bool:
        wanted, given = plain_number(gold), _stated(after_thinking(text))
        return wanted is not None and given is not None and close_number(wanted, given, _SHARE)

    def check_gold(self, gold: str) -> str | None:
        if super().check_gold(gold) is None and plain_number(gold) is None:
            return f"the gold answer {gold!r} is not a number"
        return super().check_gold(gold)


def _stated(text: str) -> PlainNumber | None:
    """Returns the number that a text states as its answer."""
    boxed = last_boxed(text)
    found = boxed is not None and (plain_number(boxed) or _last(boxed))
    if found:
        return found
    stated = after_answer_is(text)
    found = stated is not None and _first(stated)
    return found or _last(text)


def _first(text: str) -> PlainNumber | None:
    numbers = _numbers(text)
    return numbers[0] if numbers else None


def _last(text: str) -> PlainNumber | None:
    found = (numbers[-1] for line in reversed(text.splitlines()) if (numbers := _numbers(line)))
    return next(found, None)


def _numbers(text: str) -> list[PlainNumber]:
    return [
        read for found in _NUMBER.findall(text) if (read := plain_number(re.sub(r"(?<=[-+−])\s", "", found)))
    ]
