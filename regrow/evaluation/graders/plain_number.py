"""Reads numbers as people and models write them, exactly."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, final

_LARGEST_EXPONENT: Final = 400  # beyond a float; a larger power is not worth computing

# Thousands may be separated by a comma (also `{,}` and `,\!`) or by a thin space, in groups of three.
_SEPARATOR = re.compile(r"(?<=\d)(?:\{,\}|,\\!\s*|,|\\[,;:!]|\\ |\u2009|\u202f)(?=\d{3}(?!\d))")
_CURRENCY = re.compile(
    r"\\?\$|[€£¥]|\\(?:euro|pounds|texteuro|textsterling)(?![a-zA-Z])|\\text\{\s*\\?\$\s*\}"
)
_PERCENT = re.compile(r"(?:\\?%|\\text\{\s*\\?%\s*\}|\s*\bpercent\b|\\text\{\s*percent\s*\})\s*$")
_TIMES = r"\s*(?:\\times|\\cdot|×|·|\*)\s*"
_DECIMAL = r"(?:\d+\.?\d*|\.\d+)"
_POWER = (
    r"10\s*(?:\^|\*\*)\s*"
    r"(?:\{\s*(?P<braced>[+-]?\s*\d+)\s*\}|\(\s*(?P<parens>[+-]?\d+)\s*\)|(?P<bare>[+-]?\d+))"
)
_E_NOTATION = re.compile(rf"(?P<mantissa>{_DECIMAL})[eE](?P<exponent>[+-]?\d+)")
_SCIENTIFIC = re.compile(rf"(?:(?P<mantissa>{_DECIMAL}){_TIMES})?{_POWER}")
_FRACTION = re.compile(
    rf"(?:(?P<whole>\d+)\s*)?\\[dtc]?frac\s*(?:\{{\s*(?P<top>-?{_DECIMAL})\s*\}}|(?P<top1>\d))\s*"
    rf"(?:\{{\s*(?P<under>{_DECIMAL})\s*\}}|(?P<under1>\d))",
    re.ASCII,
)
_SLASHED = re.compile(rf"(?:(?P<whole>\d+)\s+)?(?P<top>{_DECIMAL})\s*/\s*(?P<under>{_DECIMAL})", re.ASCII)


@final
@dataclass(frozen=True)
class PlainNumber:
    """A number, and how it was written."""

    value: Fraction
    percent: bool = False  # a percent sign followed; `value` is the number before the sign
    digits: int | None = None  # digits after the decimal point; None unless written as a decimal


def plain_number(text: str) -> PlainNumber | None:
    r"""Reads an integer, decimal, fraction, mixed number or power of ten, with its sign; None for all else.

    Thousands separators and currency signs are dropped. `3/4`, `\frac{3}{4}`, `1\frac34`, `4.5e33` and
    `4.5 \times 10^{33}` are numbers.
    """
    body = _CURRENCY.sub("", text).strip().replace("−", "-")
    if len(body) > 400:
        return None
    percent = _PERCENT.search(body)
    if percent:
        body = body[: percent.start()].strip()
    body = _SEPARATOR.sub("", body)
    sign = 1
    while body[:1] in ("+", "-"):
        sign, body = (-sign if body[0] == "-" else sign), body[1:].lstrip()
    if body.startswith("{") and body.endswith("}") and "{" not in body[1:]:
        body = body[1:-1].strip()
    read = _unsigned(body)
    return read and PlainNumber(sign * read.value, percent is not None, read.digits)


def _unsigned(body: str) -> PlainNumber | None:
    if re.fullmatch(_DECIMAL, body, re.ASCII):
        return PlainNumber(
            Fraction(body.rstrip(".")), digits=len(body.partition(".")[2]) if "." in body else None
        )
    power = _E_NOTATION.fullmatch(body) or _SCIENTIFIC.fullmatch(body)
    if power:
        groups = power.groupdict()
        exponent = next(groups[k] for k in ("exponent", "braced", "parens", "bare") if groups.get(k))
        exponent = int(exponent.replace(" ", ""))
        if abs(exponent) > _LARGEST_EXPONENT:
            return None
        mantissa = Fraction((groups["mantissa"] or "1").rstrip("."))
        return PlainNumber(mantissa * Fraction(10) ** exponent)
    fraction = _SLASHED.fullmatch(body)
    if fraction:
        return _quotient(fraction["whole"], fraction["top"], fraction["under"])
    fraction = _FRACTION.fullmatch(body)
    if fraction:
        top, under = fraction["top"] or fraction["top1"], fraction["under"] or fraction["under1"]
        return _quotient(fraction["whole"], top, under)
    return None


def _quotient(whole: str | None, top: str, under: str) -> PlainNumber | None:
    """Returns a mixed number; None for a division by zero, or for a sign after the whole part."""
    bottom = Fraction(under.rstrip("."))
    if not bottom or (whole and top.startswith("-")):
        return None
    return PlainNumber(int(whole or 0) + Fraction(top.rstrip(".")) / bottom)
