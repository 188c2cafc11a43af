"""Progress on standard error: a bar on a terminal, gone when the work is done; elsewhere plain lines."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self, final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from regrow.cli.terminal import say
from regrow.format import duration

SECONDS_BETWEEN_LINES = 10


@final
class Bar:
    """One line: what is under way, how far it is, and a note."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._plain = None if console.is_interactive else _Lines(clock)
        # Standard output is not to be redirected through this console: what is printed there belongs there.
        self._progress = Progress(
            *columns,
            console=console,
            transient=True,
            disable=self._plain is not None,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._progress.add_task("", total=None, note="")

    def begin(self, what: str, total: int) -> None:
        self._progress.reset(self._task, description=what, total=total, note="")
        if self._plain is not None:
            self._plain.begin(what, total)

    def show(self, done: float, note: str) -> None:
        self._progress.update(self._task, completed=done, note=note)
        if self._plain is not None:
            self._plain.show(done, note)

    def ended(self, done: float, note: str) -> None:
        """Shows that a batch has ended. Without a terminal, each such batch has a line of its own."""
        self._progress.update(self._task, completed=done, note=note)
        if self._plain is not None:
            self._plain.ended(done, note)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """The bar is away while something is printed."""
        self._progress.stop()
        yield
        self._progress.start()

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()


@final
class _Lines:
    """Progress without a terminal: a line for every batch that ends, and one every SECONDS_BETWEEN_LINES."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._what, self._total = clock, "", 1.0
        self._began = self._last = clock()

    def begin(self, what: str, total: int) -> None:
        self._what, self._total, self._began = what, total, self._clock()

    def show(self, done: float, note: str) -> None:
        if self._clock() - self._last >= SECONDS_BETWEEN_LINES:
            self.ended(done, note)

    def ended(self, done: float, note: str) -> None:
        self._last = self._clock()
        spent = self._last - self._began
        if spent < 1:  # too short for an estimate, or begun only when a batch had ended
            say(f"{self._what}: {note}")
            return
        left = (
            f", at most {duration(spent * (self._total - done) / done)} left"
            if 0 < done < self._total
            else ""
        )
        say(f"{self._what}: {note} ({duration(spent)} so far{left})")
