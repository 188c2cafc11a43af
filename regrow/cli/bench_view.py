"""The output of `regrow bench`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import typer
from rich.console import Console, RenderableType
from rich.table import Table

from regrow.bench.bench_result import BenchRow, Lost, Reference, Result, Spread
from regrow.bench.benchmark import Bound
from regrow.bench.run import Listener
from regrow.cli.bar import Bar
from regrow.format import NONE, percent, rate, ratio

_PARTS = ("prompt", "dense", "observe", "sparse", "refresh")


class _WithBar(Listener):
    """Shows the current work on a progress bar."""

    def __init__(self, bar: Bar) -> None:
        self._bar, self._on = bar, ""

    def working(self, on: str, what: str) -> None:
        if on != self._on:
            self._on = on
            self._bar.begin(on, 1)
        self._bar.show(0, what)


@final
class Silent(_WithBar):
    """Prints JSON to standard output at the end, and nothing else."""

    def begin(self, result: Result) -> None: ...
    def bounds(self, model: str, bounds: Sequence[Bound]) -> None: ...
    def rows(self, rows: Sequence[BenchRow], lost: Sequence[Lost]) -> None: ...

    def end(self, result: Result) -> None:
        typer.echo(result.to_json())


@final
class BenchTables(_WithBar):
    """Prints tables to standard output as they are measured, with the ratios of an earlier result."""

    def __init__(self, bar: Bar, reference: Reference | None) -> None:
        super().__init__(bar)
        self._console, self._reference = Console(highlight=False), reference

    def begin(self, result: Result) -> None:
        gb = {name: f"{value / 1e9:.1f}" for name, value in result.bandwidth.items()}
        self._print(
            f"{result.made_with['device']}: memory gives {gb['read']} GB/s read, {gb['copy']} GB/s copied"
        )

    def bounds(self, model: str, bounds: Sequence[Bound]) -> None:
        """Prints one line per method and one column per batch size.

        If there are several prompt lengths, the bounds are those of the last one.
        """
        sizes = sorted({bound.rows for bound in bounds})
        table = _table(
            f"{model} by bytes alone: GB read per decode step, and how much faster than dense that allows",
            [f"batch {size}" for size in sizes],
        )
        for label in dict.fromkeys(bound.label for bound in bounds):
            found = {bound.rows: bound for bound in bounds if bound.label == label}
            table.add_row(
                label,
                *(f"{found[size].bytes_per_step / 1e9:.3f}  {ratio(found[size].ratio)}" for size in sizes),
            )
        self._print(table)

    def rows(self, rows: Sequence[BenchRow], lost: Sequence[Lost]) -> None:
        first: BenchRow | Lost = rows[0] if rows else lost[0]
        size = f"{first.model}, batch {first.rows}, prompt {first.prompt} + {first.new} new tokens"
        names = [
            "tokens/s",
            "to dense",
            "low – high",
            "at most",
            *([self._reference.name] if self._reference else []),
            "bandwidth",
        ]
        speed, parts = (
            _table(size, names),
            _table("milliseconds: the whole prompt, one step, one refresh of the mask", _PARTS),
        )
        for row in rows:
            earlier = [self._earlier(row)] if self._reference else []
            measured = (
                rate(row.tokens_per_second.median),
                ratio(row.ratio.median),
                _range(row.ratio),
                ratio(row.bound),
            )
            speed.add_row(row.label, *measured, *earlier, f"{row.bandwidth_share:.0%}")
            parts.add_row(row.label, *(f"{row.ms[part]:.1f}" if part in row.ms else NONE for part in _PARTS))
        if rows:
            self._print(speed, parts)
        if lost:
            self._print(f"{size}: not measured, for lack of memory: {'; '.join(one.label for one in lost)}")

    def end(self, result: Result) -> None:
        made = ", ".join(f"{name} {value}" for name, value in result.made_with.items() if name != "device")
        changed = result.settings["turnover"]
        notes = [] if changed is None else [f"a refresh replaces {changed:.1%} of the neurons"]
        notes += [
            f"the weights of {name} were rounded to 4 bits, with an error of {percent(error)} of their norm"
            for name, error in result.settings.get("rounding_error", {}).items()
        ]
        notes += [
            f"{name} is not timed on a CPU, where it reads all weights" for name in result.settings["untimed"]
        ]
        self._print("; ".join([f"{result.settings['dtype']}, {made}", *notes]), style="dim")

    def _print(self, *parts: RenderableType, style: str | None = None) -> None:
        with self._bar.aside():
            self._console.print(*parts, style=style)

    def _earlier(self, row: BenchRow) -> str:
        return ratio(self._reference.ratio(row)) if self._reference else NONE


def _table(title: str, names: Sequence[str]) -> Table:
    table = Table("", *names, title=title, title_justify="left", pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def _range(spread: Spread) -> str:
    return f"{spread.low:.2f} – {spread.high:.2f}"
