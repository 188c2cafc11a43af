"""Progress on standard error: on a terminal a bar that disappears at the end, elsewhere plain lines."""

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
    """A progress bar with a description and a note."""

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
        # rich would redirect standard output to this console, which writes to standard error.
        self._progress = Progress(
            *columns,
            console=console,
            transient=True,
            disable=self._plain is not None,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._progress.add_task("", total=None, note="")

    def begin(self, description: str, total: int) -> None:
        """Starts the bar anew, at 0 of `total`."""
        self._progress.reset(self._task, description=description, total=total, note="")
        if self._plain is not None:
            self._plain.begin(description, total)

    def show(self, done: float, note: str) -> None:
        """Moves the bar. Without a terminal, prints a line if the last one is long enough ago."""
        self._progress.update(self._task, completed=done, note=note)
        if self._plain is not None:
            self._plain.show(done, note)

    def ended(self, done: float, note: str) -> None:
        """Moves the bar at the end of a batch. Without a terminal, always prints a line."""
        self._progress.update(self._task, completed=done, note=note)
        if self._plain is not None:
            self._plain.ended(done, note)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Hides the bar while the context lasts, so that something else can be printed."""
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
    """Progress without a terminal: a line at the end of each batch, and every SECONDS_BETWEEN_LINES."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._description, self._total = clock, "", 1.0
        self._began = self._last = clock()

    def begin(self, description: str, total: int) -> None:
        self._description, self._total, self._began = description, total, self._clock()

    def show(self, done: float, note: str) -> None:
        if self._clock() - self._last >= SECONDS_BETWEEN_LINES:
            self.ended(done, note)

    def ended(self, done: float, note: str) -> None:
        self._last = self._clock()
        spent = self._last - self._began
        if spent < 1:  # too short for an estimate, or begun only after the work was done
            say(f"{self._description}: {note}")
            return
        left = (
            f", at most {duration(spent * (self._total - done) / done)} left"
            if 0 < done < self._total
            else ""
        )
        say(f"{self._description}: {note} ({duration(spent)} so far{left})")
