"""A bar on standard error for work that takes long: on a terminal only, gone when the work is done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self, final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn


@final
class Bar:
    """One line: what is under way, how far it is, and a note."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"), TimeElapsedColumn())
        # Standard output is not to be redirected through this console: what is printed there belongs there.
        self._progress = Progress(
            *columns, console=console, transient=True, disable=not console.is_terminal, redirect_stdout=False, redirect_stderr=False
        )
        self._task = self._progress.add_task("", total=None, note="")

    def begin(self, what: str, total: int) -> None:
        self._progress.reset(self._task, description=what, total=total, note="")

    def show(self, done: float, note: str) -> None:
        self._progress.update(self._task, completed=done, note=note)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """The bar is away while something is printed."""
        self._progress.stop()
        yield
        self._progress.start()

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()
