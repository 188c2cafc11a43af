r"""Splits answers of several parts: tuples, intervals, sets and bare lists."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import final

_OPEN = ("(", "[", r"\{")
_CLOSE = (")", "]", r"\}")
_TOKEN = re.compile(r"\\[a-zA-Z]+|\\.|.", re.DOTALL)
_AND = re.compile(r"\s*,?\s*(?:\\text\s*\{\s*,?\s*(?:and|or)\s*\}|(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z]))\s*")


@final
@dataclass(frozen=True)
class AnswerList:
    """The parts of an answer, with its brackets: both empty for a bare list."""

    opening: str
    parts: tuple[str, ...]  # at least two
    closing: str

    @property
    def ordered(self) -> bool:
        """Whether the order of the parts matters. It does in tuples and intervals, not in sets and lists."""
        return self.opening in ("(", "[")


def answer_list(answer: str) -> AnswerList | None:
    """Splits a tidied answer at its outermost commas, semicolons and "and"s; None if it has only one part."""
    text = _AND.sub(",", answer.strip())
    opening = next((mark for mark in _OPEN if text.startswith(mark)), "")
    closing = next((mark for mark in _CLOSE if text.endswith(mark)), "")
    if opening and closing and _encloses(text):
        parts = _split(text[len(opening) : len(text) - len(closing)])
        return AnswerList(opening, parts, closing) if len(parts) > 1 else None
    parts = _split(text)
    return AnswerList("", parts, "") if len(parts) > 1 else None


def _encloses(text: str) -> bool:
    """Whether the first bracket is closed by the last one: not so in `(0,9) \\cup (9,36)`."""
    depth, inside = 0, 0
    tokens = _TOKEN.findall(text)
    for position, token in enumerate(tokens):
        depth += (token in _OPEN or token == "{") - (token in _CLOSE or token == "}")
        inside += depth > 0 or position == len(tokens) - 1
    return depth == 0 and inside == len(tokens)


def _split(text: str) -> tuple[str, ...]:
    parts, current, depth = [], "", 0
    for token in _TOKEN.findall(text):
        depth += (token in _OPEN or token == "{") - (token in _CLOSE or token == "}")
        if token in (",", ";") and depth == 0:
            parts.append(current.strip())
            current = ""
        else:
            current += token
    return (*parts, current.strip()) if all((*parts, current.strip())) else ()
