"""What Regrow raises on purpose: one clear sentence that names what is wrong and what to do."""

from __future__ import annotations

import re
from collections.abc import Iterable

_SENTENCE_END = re.compile(r"(?<=[\w)\]`'\"])[.!?] (?=[A-Z])")
_QUOTED = 160  # characters of another library's error


class RegrowError(Exception):
    """The run could not be done (exit code 1)."""

    exit_code = 1


class NoMemoryError(RegrowError):
    """There is not enough memory for it."""


class UsageError(RegrowError, ValueError):
    """The request itself is wrong (exit code 2)."""

    exit_code = 2


def said(error: BaseException) -> str:
    """What another library's error says, fit to be quoted within a sentence: its first one, on one line, short, never empty.

    A first line that only announces the next ones is not all of it.
    """
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines) if lines and lines[0].endswith((":", ",")) else "".join(lines[:1])
    if not text or isinstance(error, KeyError):  # whose text is the key alone
        text = f"{type(error).__name__} {text}"
    text = _SENTENCE_END.split(text, maxsplit=1)[0]
    cut = text if len(text) <= _QUOTED else text[:_QUOTED].rsplit(" ", 1)[0] + " …"
    return cut.strip().rstrip(".:,;")


def require_one_of(choices: Iterable[str], **given: str) -> None:
    """Raises UsageError unless the value given, under the name that a user knows it by, is one of the choices."""
    known = list(choices)
    for name, value in given.items():
        if value not in known:
            raise UsageError(f"unknown {name} {value!r}; choose one of {', '.join(known)}")
