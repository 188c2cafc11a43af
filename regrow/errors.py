"""Errors that Regrow raises on purpose. The message is one sentence: what is wrong, and what to do."""

from __future__ import annotations

import re
from collections.abc import Iterable
from errno import EACCES, EDQUOT, EEXIST, EFBIG, ENOSPC, ENOTDIR, EPERM
from pathlib import Path

_SENTENCE_END = re.compile(r"(?<=[\w)\]`'\"])[.!?] (?=[A-Z])")
_QUOTED = 160  # quoted characters of another library's error
# What may help beside another place, by the number of the operating system's error.
_REMEDIES = dict.fromkeys((ENOSPC, EDQUOT, EFBIG), "make room") | dict.fromkeys(
    (EACCES, EPERM), "allow writing there"
)


class RegrowError(Exception):
    """The run could not be done (exit code 1)."""

    exit_code = 1


class NoMemoryError(RegrowError):
    """There is not enough memory for the run."""


class UsageError(RegrowError, ValueError):
    """The request itself is wrong (exit code 2)."""

    exit_code = 2


def said(error: BaseException) -> str:
    """Returns the first sentence of another library's error, on one line, to be quoted within a sentence.

    The text is cut to a limit and never empty. If the first line only introduces the following ones (it
    ends with a colon or a comma), all lines are joined first.
    """
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines) if lines and lines[0].endswith((":", ",")) else "".join(lines[:1])
    if not text or isinstance(error, KeyError):  # the text of a KeyError is only the key
        text = f"{type(error).__name__} {text}"
    text = _SENTENCE_END.split(text, maxsplit=1)[0]
    cut = text if len(text) <= _QUOTED else text[:_QUOTED].rsplit(" ", 1)[0] + " …"
    return cut.strip().rstrip(".:,;")


def unwritable(path: Path, error: OSError, otherwise: str, kept: str = "") -> RegrowError:
    """Returns the error for a file or directory that cannot be written, with advice that fits the reason.

    `otherwise` says what always helps, such as "choose another --out". `kept` says what is not lost.
    """
    reason = error.strerror or said(error)
    if error.errno in (EEXIST, ENOTDIR):
        blocking = next((parent for parent in path.parents if parent.is_file()), None)
        reason = reason if blocking is None else f"{blocking} is a file and not a directory"
    remedy = _REMEDIES.get(error.errno or 0)
    advice = f"{remedy} or {otherwise}" if remedy else otherwise
    return RegrowError(f"{path} cannot be written: {reason}; {kept and f'{kept}: '}{advice}")


def require_one_of(choices: Iterable[str], **given: str) -> None:
    """Raises UsageError unless every given value is one of the choices.

    The keyword is the name by which a user knows the value, and appears in the message.
    """
    known = list(choices)
    for name, value in given.items():
        if value not in known:
            raise UsageError(f"unknown {name} {value!r}; choose one of {', '.join(known)}")
