r"""Rewrites an answer in LaTeX, plain text or Unicode into the LaTeX that math-verify reads best.

The meaning stays the same, except for units and words around an answer, which are removed.
"""

from __future__ import annotations

import re
from typing import Final

from regrow.evaluation.graders.notation import common

_SUPERSCRIPTS: Final = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_SYMBOLS: Final = {
    "−": "-", "–": "-", "×": r"\times ", "·": r"\cdot ", "÷": "/", "π": r"\pi ", "∞": r"\infty ",
    "°": r"^{\circ}", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "±": r"\pm ", "\u222a": r"\cup ",
    "∈": r"\in ", "θ": r"\theta ", "ω": r"\omega ", "\u03b1": r"\alpha ", "λ": r"\lambda ",
    "\u2009": r"\,", "\u202f": r"\,", "\u00a0": " ", r"\$": "",
}  # fmt: skip

_DELIMITERS = re.compile(r"^(?:\$+|\\\(|\\\[)(.*?)(?:\$+|\\\)|\\\])\.?$", re.DOTALL)
_SPACES = re.compile(
    r"(?<!\\)\\[,;:! ]|\\q?quad(?![a-zA-Z])|\\(?:displaystyle|textstyle|limits)(?![a-zA-Z])|(?<!\\)~|\s+"
)
_THOUSANDS = re.compile(
    r"(?<![\d.])(\d{1,3})((?:(?:\{,\}(?:\\!)?|,?\\[,!:;]\s*|,\s?\\[,!:;]\s*)\d{3})+)(?!\d)"
)
_SIZES = re.compile(r"\\(?:left|right|[bB]igg?[lr]?)\s*(?=[()\[\]|]|\\[{}|])")
_SUPERSCRIPT_RUN = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+")
_ROOT = re.compile(r"√\s*(?:\(([^()]*)\)|(\d+|[a-zA-Z]))")
_BARE_ROOT = re.compile(r"\\sqrt\s*(\d+)")
_BARE_POWER = re.compile(r"\^\s*(-?\d+)(?![\d.])|\^\(\s*(-?\d+)\s*\)")
_POINT_BEFORE_SLASH = re.compile(r"(?<=\d)\.(?=\s*/)")
_DEGREES = re.compile(r"\s*\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![a-zA-Z]))|\\degree(?![a-zA-Z])")
_NUMPY = re.compile(r"\bnp\.(?=[a-z])")
_FUNCTION = re.compile(r"(?<![\\a-zA-Z])(arcsin|arccos|arctan|sin|cos|tan|ln|log|exp)(?=\s*[({])")
_LEADING = re.compile(r"^(?:\\(?:approx|sim|therefore|implies)(?![a-zA-Z])|=|≈)\s*")
_MEMBER = re.compile(r"^[a-zA-Z]\s*\\in(?![a-zA-Z])\s*")
_WORD_GROUP = r"\\(?:text|mathrm|mbox|textrm|textbf|textit|operatorname|rm)\s*\{(?:[^{}]|\{[^{}]*\})*\}"
_ONLY_WORDS = re.compile(r"\\(?:text|mathrm|mbox|textrm|textbf|mathbf)\s*\{([^{}]*)\}")
_LEADING_WORDS = re.compile(rf"^{_WORD_GROUP}\s*:?\s*(?=[\d\\(\[.-])(?!\\times|\\cdot)")
_QUOTIENT = rf"\\[dt]?frac\s*\{{\s*{_WORD_GROUP}\s*\}}\s*\{{\s*{_WORD_GROUP}\s*\}}"
_UNIT = rf"(?:{_WORD_GROUP}|{_QUOTIENT})(?:\s*\^\s*(?:\{{\s*-?\d+\s*\}}|-?\d))?"
_TRAILING_UNITS = re.compile(rf"(?:\s*(?:/|\\cdot|\\times|\*)?\s*{_UNIT})+\s*\.?$")
_SCALE = re.compile(r"hundred|thousand|million|billion|trillion|dozen|percent|%|\bpi\b|\band\b|\bor\b")
_PARENTHESISED_BASE = re.compile(r"^(?:\(\s*(\w+)\s*\)|\\text\s*\{\s*(\w+)\s*\})\s*(?=_)")
_BASES: Final = {
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
}
_BASE = re.compile(
    r"_\s*\{?\s*(?:\\text\s*\{\s*(?:base\s*)?)?\(?\s*(\d+|" + "|".join(_BASES) + r")\s*\)?\s*\}?\s*\}?$"
)
_WORD = re.compile("[a-z]+(?:-[a-z]+)*")


def tidy(answer: str) -> str:
    """Returns the answer without delimiters, spacing commands, words around it and units, in plain LaTeX."""
    text = common(_outer(answer))
    if wrapped := _ONLY_WORDS.fullmatch(text):
        text = wrapped[1]
    text = _SIZES.sub("", text)
    for symbol, latex in _SYMBOLS.items():
        text = text.replace(symbol, latex)
    text = _THOUSANDS.sub(lambda found: found[1] + re.sub(r"\D", "", found[2]), text)
    text = _SPACES.sub(" ", text).strip()
    text = _SUPERSCRIPT_RUN.sub(lambda found: "^{" + found[0].translate(_SUPERSCRIPTS) + "}", text)
    text = _ROOT.sub(lambda found: r"\sqrt{" + (found[1] or found[2]) + "}", text)
    text = _BARE_ROOT.sub(r"\\sqrt{\1}", text)
    text = _BARE_POWER.sub(lambda found: "^{" + (found[1] or found[2]) + "}", text)
    text = _POINT_BEFORE_SLASH.sub("", text)
    text = _FUNCTION.sub(r"\\\1", _NUMPY.sub("", text))
    text = _DEGREES.sub("", text)
    text = _MEMBER.sub("", _LEADING.sub("", text)).rstrip(" .,;")
    return _based(_without_words(text)).strip()


def _outer(answer: str) -> str:
    """Removes the delimiters of a formula, and a full stop after it."""
    text = answer.strip()
    while (found := _DELIMITERS.match(text)) and "$" not in found[1].replace(r"\$", ""):
        text = found[1].strip()
    return text


def _without_words(text: str) -> str:
    r"""Removes `\text{...}` before an answer and units after it, unless the answer is nothing but words."""
    rest = _LEADING_WORDS.sub("", text)
    units = _TRAILING_UNITS.search(rest)
    if units and not _SCALE.search(units[0]):
        before = rest[: units.start()]
        if re.search(r"[\d}\])a-zA-Z]$", before):
            rest = before
    return rest or text


def _based(text: str) -> str:
    """Writes a number in another base as `digits_{base}`: `(52)_8`, `52_{eight}` and `52_{\text{base }8}`."""
    if not re.match(r"^\(?\s*(?:\\text\s*\{)?\s*[\dA-F]+\s*\}?\)?\s*_", text):
        return text
    text = _PARENTHESISED_BASE.sub(lambda found: found[1] or found[2], text)
    return _BASE.sub(lambda found: "_{" + _BASES.get(found[1], found[1]) + "}", text)


def words(answer: str) -> str | None:
    r"""Returns an answer that is nothing but words, in lower case; None for any other answer.

    Fonts, parentheses, a full stop and an article are dropped: `\text{(C)}` is c, `\textbf{An ellipse.}` is
    ellipse.
    """
    text = re.sub(
        r"\\(?:text|mathrm|mbox|textrm|textbf|textit|operatorname|mathbf|rm|displaystyle)(?![a-zA-Z])",
        " ",
        common(_outer(answer)),
    )
    text = re.sub(r"[{}()\"'`$.,~]|\\[ ,;:!]", " ", text)
    found = text.casefold().split()
    found = [word for word in found if word not in ("a", "an", "the")] or found
    return " ".join(found) if found and all(_WORD.fullmatch(word) for word in found) else None
