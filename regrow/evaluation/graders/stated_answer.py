"""Finds the answer that a completion states."""

from __future__ import annotations

import re
from typing import Final

LONGEST: Final = 2000  # characters; a longer "answer" is none, and is never parsed

_BOX = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])[ \t]*")
_UNBRACED_END = re.compile(r"[\s$]|\\[)\]]|$")
_LAST_SPACE = re.compile(r"(?<!\\)(?:\\\s)\s*$")  # a space of LaTeX, which would lose its blank
_ANSWER_IS = re.compile(r"\banswer\s+is\b\s*:?", re.IGNORECASE)
_SENTENCE_END = re.compile(r"\.(?:\s|$)|\n")
_IN_DOLLARS = re.compile(r"\$+([^$]+)\$+")


def after_thinking(text: str) -> str:
    """Returns the part after the last `</think>`, or the whole text if there is none.

    A text without `</think>` is either the answer of a model that does not think, or thinking that did not
    end. The text alone does not tell which, because `<think>` may be part of the prompt.
    """
    return text.rpartition("</think>")[2]


def last_boxed(text: str) -> str | None:
    r"""Returns what the last `\boxed` or `\fbox` holds, without surrounding blanks.

    Nested and escaped braces are part of the content. Without braces (`\boxed 5`), the content ends at a
    blank or at the end of the formula. The result is None if there is no box, if the last one is not closed,
    or if it holds more than LONGEST characters.
    """
    last = _last(_BOX, text)
    if last is None:
        return None
    start = last.end()
    if text[start : start + 1] != "{":
        end = _UNBRACED_END.search(text, start)
        assert end  # the pattern matches the end of the text
        content = text[start : end.start()].rstrip(".")
        return content if 0 < len(content) <= LONGEST else None
    end_brace = _closing_brace(text, start, LONGEST + 2)
    return None if end_brace is None else _LAST_SPACE.sub("", text[start + 1 : end_brace]).strip()


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    return max(pattern.finditer(text), key=lambda found: found.start(), default=None)


def _closing_brace(text: str, start: int, within: int) -> int | None:
    """Returns the index of the brace that closes the one at `start`, or None if it is not near."""
    depth, index = 0, start
    stop = min(len(text), start + within)
    while index < stop:
        character = text[index]
        if character == "\\":
            index += 1  # the next character is escaped
        elif character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
            if not depth:
                return index
        index += 1
    return None


def after_answer_is(text: str) -> str | None:
    """Returns what follows the last "answer is": the formula in dollars, or else the rest of the sentence.

    The result is None if the text does not say "answer is", or says nothing within LONGEST characters.
    """
    last = _last(_ANSWER_IS, text)
    if last is None:
        return None
    rest = text[last.end() : last.end() + LONGEST].lstrip()
    sentence = rest[: end.start()] if (end := _SENTENCE_END.search(rest)) else rest
    formula = _IN_DOLLARS.search(sentence)
    return (formula[1] if formula else sentence).strip(" *:.") or None
