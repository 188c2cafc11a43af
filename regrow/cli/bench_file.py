"""Keeps the results of a benchmark in a file while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from regrow.cli.group import INTERRUPTED, fail
from regrow.whole_file import write_whole


class _Result(Protocol):
    def to_json(self) -> str: ...


@contextmanager
def kept(out: Path | None) -> Iterator[Callable[[_Result], None]]:
    """Yields a function that writes the results so far, if there is a file to write them to.

    An interruption ends the command with a sentence. Raises RegrowError if the file cannot be written.
    """

    def keep(result: _Result) -> None:
        if out is not None:
            write_whole(out, (result.to_json() + "\n").encode())

    try:
        yield keep
    except KeyboardInterrupt:
        fail(
            "interrupted" + (f"; what was measured is kept in {out}" if out and out.exists() else ""),
            INTERRUPTED,
        )
