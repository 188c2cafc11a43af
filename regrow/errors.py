"""What Regrow raises on purpose: one clear sentence that names what is wrong and what to do."""

from __future__ import annotations


class RegrowError(Exception):
    """The run could not be done (exit code 1)."""

    exit_code = 1


class NoMemoryError(RegrowError):
    """There is not enough memory for it."""


class UsageError(RegrowError, ValueError):
    """The request itself is wrong (exit code 2)."""

    exit_code = 2


def said(error: BaseException) -> str:
    """What another library's error says, short enough to be quoted within a sentence."""
    return (str(error) or type(error).__name__).strip().splitlines()[0].rstrip(".")
