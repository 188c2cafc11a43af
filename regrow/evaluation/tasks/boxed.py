"""Finds the answer that a text puts in a box (`\\boxed{...}`)."""

from __future__ import annotations

_COMMAND = "\\boxed{"


def last_boxed(text: str) -> str | None:
    """Returns the content of the last `\\boxed{...}`; None if there is none or its braces do not close."""
    start = text.rfind(_COMMAND)
    if start < 0:
        return None
    depth, begin = 1, start + len(_COMMAND)
    for place in range(begin, len(text)):
        if text[place - 1] == "\\":
            continue  # an escaped brace is a character
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if not depth:
            return text[begin:place].strip()
    return None
