r"""Rewrites notations that math-verify cannot read, or misreads, as common ones of the same meaning.

`\mathbf{\frac38}` loses its font, for instance, and `\frac\pi6` gets braces.
"""

from __future__ import annotations

import re
from typing import Final

_INSIDE = r"((?:[^{}]|\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\})*)"  # braces up to three levels deep
_FONT = re.compile(
    rf"\\(?:mathbf|boldsymbol|bm|mathsf|mathit|underline)\s*\{{{_INSIDE}\}}"
    rf"|\\(?:color|textcolor)\s*\{{[a-zA-Z]+\}}\s*\{{{_INSIDE}\}}"
)
_SIZE = r"(?:tiny|small|normalsize|large|Large|LARGE|huge|Huge|bf|sf|bfseries|displaystyle)(?![a-zA-Z])"
_SWITCH = re.compile(rf"^\\{_SIZE}|(?<=\{{)\\{_SIZE}")
_BRACED = re.compile(r"(?<!\\)\{" + _INSIDE + r"(?<!\\)\}")
_TEXT = r"\\(?:text|mathrm|textrm|mbox|rm)\s*"
_THIN = r"(?:\\[,;: ]|~|\s)*"

_REWRITES: Final = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\(?:textbf|textsf|texttt|textit|textnormal|emph)(?=\s*\{)", r"\\text"),
        (r"\\text\s*\{\s+\}", " "),
        (rf"{_TEXT}\{{\s*([\d./]+)\s*\}}", r"\1"),
        # Symbols in upright letters: the imaginary unit, Euler's number, the d of a derivative.
        (rf"{_TEXT}\{{\s*i\s*\}}", "i"),
        (rf"{_TEXT}\{{\s*e\s*\}}(?=\s*\^)", "e"),
        (rf"{_TEXT}\{{\s*d\s*\}}(?=\s*\\?[a-zA-Z])", "d "),
        (rf"_\s*\{{\s*{_TEXT}\{{\s*([a-zA-Z]+)\s*\}}\s*\}}", r"_{\1}"),
        (r"_\s*(?:\{\s*\\odot\s*\}|\\odot(?![a-zA-Z]))", "_{sun}"),
        (r"\\dot\s+([a-zA-Z])", r"\\dot{\1}"),
        (r"(?<![a-zA-Z\\}])([a-zA-Z])(?:'|\s*\^\s*(?:\{\s*\\prime\s*\}|\\prime))(?!['\w])", r"\\dot{\1}"),
        (r"\\[dt]?frac\s*\{\s*d\s*([a-zA-Z])\s*\}\s*\{\s*d\s*t\s*\}", r"\\dot{\1}"),
        (
            r"\\[dt]?frac\s*\{\s*d\s*\^\s*(?:2|\{2\})\s*([a-zA-Z])((?:_\w|_\{\w+\})?)\s*\}"
            r"\s*\{\s*d\s*t\s*\^\s*(?:2|\{2\})\s*\}",
            r"\\ddot{\1}\2",
        ),
        (r"^\\langle[^=]*\\rangle\s*=", ""),
        # Fractions and powers.
        (r"\\(?:nicefrac|sfrac)(?=\s*\{)", r"\\frac"),
        ("\u2044", "/"),
        (r"(\\[dtc]?frac)\s*(\\pi)(?![a-zA-Z])", r"\1{\2}"),
        (r"(\\[dtc]?frac)\s*(\d|\{[^{}]*\})\s*(\\pi)(?![a-zA-Z])", r"\1{\2}{\3}"),
        (r"\\ast(?![a-zA-Z])", r"\\cdot "),
        (r"(?<![a-zA-Z\\.])pi(?![a-zA-Z])", r"\\pi "),
        (r"(?<![a-zA-Z\\])(cot|sec|csc|sinh|cosh|tanh)(?=\s*\()", r"\\\1"),
        (r"\{-\}", "-"),
        (r"\\bigcup(?![a-zA-Z])(?!\s*[_^])", r"\\cup"),
        (r"\\\\\s*\[\s*-?[\d.]+\s*(?:pt|em|ex|mm|cm|in)\s*\]", r"\\\\ "),
        # Units whose signs are no letters.
        (
            rf"\\AA(?![a-zA-Z])|\\mathring\s*\{{\s*(?:{_TEXT}\{{\s*)?A\s*\}}?\s*\}}|\u00c5|\u212b",
            r"\\text{angstrom}",
        ),
        (r"\\text\s*\{\s*\\text\{angstrom\}\s*\}", r"\\text{angstrom}"),
        (
            rf"(?<=[\d}}])({_THIN})(?:\\mu|[\u00b5\u03bc])\s*(?:{_TEXT})?\{{?\s*([a-zA-Z]+)\s*\}}?$",
            r"\1\\text{u\2}",
        ),
        (rf"(?<=[\d}}]){_THIN}(?:\\Omega|\u03a9|\u2126|\u00a2|\\textcent)\s*$", ""),
    )
)  # fmt: skip
_GROUPED = re.compile(r"(?<=[^\\]\{)\d{1,3}(?:(?:,|\{,\}|,\\!)\d{3})+(?=\})")


def common(answer: str) -> str:
    """Returns the answer in common notation, without fonts, colours and braces around it."""
    text = answer
    for _ in range(4):  # fonts within fonts
        text = _SWITCH.sub("", text).strip()
        text = _FONT.sub(lambda found: found[1] or found[2] or "", text)
        if found := _BRACED.fullmatch(text):
            text = found[1]
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    return _GROUPED.sub(lambda found: "".join(re.findall(r"\d", found[0])), text)
