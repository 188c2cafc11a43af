"""Progress on standard error: on a terminal a bar that disappears at the end, elsewhere plain lines."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Self, final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from regrow.cli.terminal import displaying, say
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
        self._context = ExitStack()

    def begin(self, description: str, total: int, whole: str = "") -> None:
        """Starts the bar anew, at 0 of `total`. `whole`: what the time left is that of, if more follows."""
        self._progress.reset(self._task, description=description, total=total, note="")
        if self._plain is not None:
            self._plain.begin(description, total, whole)

    def skip(self, done: float) -> None:
        """Says that the first `done` were complete before this run, which took no time for them."""
        if self._plain is not None:
            self._plain.skip(done)

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
        if self._plain is None:
            self._context.enter_context(displaying(self._print_above))
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
        self._context.close()

    def _print_above(self, line: str) -> None:
        self._progress.console.print(Text(line), soft_wrap=True)


@final
class _Lines:
    """Progress without a terminal: a line for every batch, and within one at most every 10 seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._description, self._of, self._total, self._skipped = clock, "", "", 1.0, 0.0
        self._began = self._last = clock()

    def begin(self, description: str, total: int, whole: str) -> None:
        self._description, self._total, self._skipped = description, total, 0.0
        self._of = f" of {whole}" if whole else ""
        self._began = self._clock()

    def skip(self, done: float) -> None:
        self._skipped = done

    def show(self, done: float, note: str) -> None:
        if self._clock() - self._last >= SECONDS_BETWEEN_LINES:
            self.ended(done, note)

    def ended(self, done: float, note: str) -> None:
        self._last = self._clock()
        spent, made = self._last - self._began, done - self._skipped
        left = spent * (self._total - done) / made if made > 0 and done < self._total else 0.0
        remaining = f", about {duration(left)} left{self._of}" if left else ""
        say(f"{self._description}: {note} ({duration(spent)} so far{remaining})")
