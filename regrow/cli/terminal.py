"""Standard streams as they are: one that shows no Unicode, one that takes no more, one that is closed."""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import EPIPE
from io import TextIOWrapper
from typing import TextIO

_STAND_INS = str.maketrans({"–": "-", "−": "-", "×": "x", "…": "...", "✓": "+", "✗": "x", "•": "*"})


@contextmanager
def standard_streams() -> Iterator[None]:
    """What a stream cannot show is replaced. Ends the process with one sentence where standard output cannot be
    written, and without a word where its reader has gone away."""
    if sys.stdout is None:
        _end("error: standard output is closed; redirect it to /dev/null if nobody is to read it")
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
        place = "standard output" if error.filename is None else error.filename
        _end(None if error.errno == EPIPE else f"error: {place} cannot be written: {error.strerror or error}")


def _stand_in(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    plain = error.object[error.start : error.end].translate(_STAND_INS)
    return plain.encode("ascii", "replace").decode("ascii"), error.end


def say(sentence: str) -> None:
    """One line on standard error, if there is somebody to read it: the exit code says the same."""
    if sys.stderr is None:
        return
    try:
        print(f"regrow: {' '.join(sentence.splitlines())}", file=sys.stderr, flush=True)
    except OSError:
        _discard(sys.stderr)


def _end(sentence: str | None) -> None:
    if sentence is not None:
        say(sentence)
    raise SystemExit(1)


def _discard(stream: TextIO) -> None:
    """What is still in the buffer goes nowhere: Python would try once more to write it, and complain."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
