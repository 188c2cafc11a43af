"""Handles standard streams that cannot show Unicode, are full, are closed, or have lost their reader."""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from errno import EPIPE
from io import TextIOWrapper
from typing import TextIO

from regrow.errors import said

_STAND_INS = str.maketrans({"–": "-", "−": "-", "×": "x", "…": "...", "✓": "+", "✗": "x", "•": "*"})


@contextmanager
def standard_streams() -> Iterator[None]:
    """Replaces characters that a standard stream cannot encode, while the context lasts.

    If standard output cannot be written, the process ends with exit code 1: with one sentence, or silently if
    its reader has gone away.
    """
    if sys.stdout is None:
        _end("error: standard output is closed; redirect it to /dev/null if nobody reads it")
    codecs.register_error("regrow", _stand_in)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="regrow")
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except OSError as error:
        _discard(sys.stdout)
        if error.errno is None:  # raised by a library, of something else
            _end(f"error: {said(error)}")
        place = "standard output" if error.filename is None else error.filename
        _end(None if error.errno == EPIPE else f"error: {place} cannot be written: {error.strerror or error}")


def _stand_in(error: UnicodeError) -> tuple[str, int]:
    """Codec error handler: returns ASCII replacements, and the position where encoding continues."""
    assert isinstance(error, UnicodeEncodeError)
    plain = error.object[error.start : error.end].translate(_STAND_INS)
    return plain.encode("ascii", "replace").decode("ascii"), error.end


_DISPLAYS: list[Callable[[str], None]] = []  # each prints a line above a bar that is on the terminal


@contextmanager
def displaying(print_above: Callable[[str], None]) -> Iterator[None]:
    """Prints the lines of `say` with `print_above` while the context lasts, because a bar is displayed."""
    _DISPLAYS.append(print_above)
    try:
        yield
    finally:
        _DISPLAYS.remove(print_above)


def say(sentence: str) -> None:
    """Prints one line to standard error. Does nothing if that fails: the exit code says the same."""
    if sys.stderr is None:
        return
    line = f"regrow: {' '.join(sentence.splitlines())}"
    try:
        if _DISPLAYS:
            _DISPLAYS[-1](line)
        else:
            print(line, file=sys.stderr, flush=True)
    except OSError:
        _discard(sys.stderr)


def _end(sentence: str | None) -> None:
    """Ends the process with exit code 1, after printing the sentence if there is one."""
    if sentence is not None:
        say(sentence)
    raise SystemExit(1)


def _discard(stream: TextIO) -> None:
    """Sends the rest of the buffer to the null device.

    Otherwise Python would try again to write it at exit, and print an error.
    """
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
