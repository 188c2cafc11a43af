"""Decoding speed from benchmarks, and speed against accuracy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

from regrow.analysis.chart import Chart, Line, Point
from regrow.analysis.comparison_table import ComparisonRow
from regrow.bench.bench_result import TITLES, BenchRow
from regrow.bench.shapes import SHAPES
from regrow.format import NONE, rate, ratio
from regrow.reporting.accuracy import RANGE, titled
from regrow.reporting.groups import Group, slug
from regrow.reporting.section import Section, complete, line, percents
from regrow.reporting.sources import Bench
from regrow.table import Column, Table


@final
@dataclass(frozen=True)
class Timing:
    """The rows of a benchmark with one model, prompt length and number of new tokens."""

    bench: Bench
    rows: tuple[BenchRow, ...]

    @property
    def title(self) -> str:
        first = self.rows[0]
        return f"{first.model} on {self.bench.device}: prompt of {first.prompt}, {first.new} new tokens"

    @property
    def sparsity(self) -> float | None:
        """Target sparsity of the methods; None if the file does not state it."""
        found = self.bench.result.settings.get("sparsity")
        return None if found is None else float(found)

    @property
    def conditions(self) -> str:
        """How the speeds were measured, as sentences."""
        dtype = self.bench.result.settings.get("dtype")
        weights = "random weights" if self.rows[0].model in SHAPES else ""
        target = (
            "a target sparsity that the file does not state"
            if self.sparsity is None
            else f"{100 * self.sparsity:g} % target sparsity"
        )
        parts = ", ".join(part for part in (weights, dtype, target) if part)
        return f"{self.bench.name}: {parts}; decode steps only, after the first T_init dense steps."

    @property
    def name(self) -> str:
        first = self.rows[0]
        return slug(self.bench.name, first.model, first.prompt, first.new)

    @property
    def batch_sizes(self) -> list[int]:
        return sorted({row.rows for row in self.rows})


def timings(benches: Sequence[Bench]) -> list[Timing]:
    """Returns the parts of the benchmarks whose rows can be compared with each other."""
    found = []
    for bench in benches:
        parts: dict[tuple[str, int, int], list[BenchRow]] = {}
        for row in bench.result.rows:
            parts.setdefault((row.model, row.prompt, row.new), []).append(row)
        found += [Timing(bench, tuple(rows)) for rows in parts.values()]
    return found


def method(row: BenchRow) -> str:
    """Returns the label of a contender; methods are called as in the tables of accuracies."""
    return TITLES.get(row.label, row.label)


def throughput(found: Sequence[Timing]) -> Section:
    """Returns speeds by method and batch size (tables 5 and 6, figures 6 and 7 of the paper)."""
    charted = [
        timing
        for timing in found
        if len(timing.batch_sizes) > 1
        and any(row.label in TITLES and row.label != "dense" for row in timing.rows)
    ]
    parts: list[Table | Chart] = [*map(_chart, charted), *map(_table, found)]
    return Section(
        "throughput",
        "Throughput",
        "Tokens a second of decoding, and the speedup over dense decoding through the same loop in the same "
        "round: the median of the rounds, with the lowest and the highest.",
        tuple(parts),
        "No results of regrow bench, so there are no speeds.",
    )


def tradeoff(groups: Sequence[Group], found: Sequence[Timing]) -> Section:
    """Returns charts of accuracy against speedup (figures 8 and 9 of the paper)."""
    charts = [chart for group in groups for timing in found for chart in _tradeoffs(group, timing)]
    return Section(
        "trade-off",
        "Accuracy against throughput",
        "Where a benchmark and an accuracy have the same method, target sparsity and batch size. The "
        "larger the batch, the larger the marker. Bars along y are 95 % intervals, bars along x the range of "
        "the rounds.",
        tuple(charts),
        "No benchmark and accuracy have a method, sparsity and batch size in common.",
    )


def _chart(timing: Timing) -> Chart:
    sizes = timing.batch_sizes
    lines = [
        line(
            method(own[0]),
            [Point(sizes.index(row.rows), row.ratio.median, (row.ratio.low, row.ratio.high)) for row in own],
        )
        for own in _by_contender(timing)
        if own[0].label != "dense"
    ]
    return Chart(
        slug("throughput", timing.name),
        timing.title,
        "batch size",
        "speedup over dense",
        tuple(lines),
        tuple(map(str, sizes)),
        level=1.0,
        note=timing.conditions,
    )


def _table(timing: Timing) -> Table:
    columns = [Column("", right=False), *(Column(f"batch {size}") for size in timing.batch_sizes)]
    lines = []
    for own in _by_contender(timing):
        cells = {row.rows: row for row in own}
        lines.append((method(own[0]), *(_cell(cells.get(size)) for size in timing.batch_sizes)))
    return Table.of(columns, lines, timing.title, [timing.conditions])


def _cell(row: BenchRow | None) -> str:
    if row is None:
        return NONE
    speed = f"{rate(row.tokens_per_second.median)} tokens/s"
    if row.label == "dense":
        return speed
    return f"{speed}\n{ratio(row.ratio.median)} ({row.ratio.low:.2f} to {row.ratio.high:.2f})"


def _by_contender(timing: Timing) -> list[list[BenchRow]]:
    found: dict[str, list[BenchRow]] = {}
    for row in timing.rows:
        found.setdefault(row.label, []).append(row)
    return list(found.values())


def _tradeoffs(group: Group, timing: Timing) -> Iterator[Chart]:
    """Yields the chart of one group and one benchmark, if a pruned method has both numbers."""
    answers = {(row.label, row.target, row.batch_size): row for row in group.answered if complete(row)}
    lines = []
    for own in _by_contender(timing):
        label = method(own[0])
        target = 0.0 if own[0].label == "dense" else timing.sparsity
        pairs = [(row, answers.get((label, -1.0 if target is None else target, row.rows))) for row in own]
        points = [_point(row, answer, timing.batch_sizes) for row, answer in pairs if answer]
        if any(points):
            lines.append(line(label, points))
    if any(one.label != "dense" for one in lines):
        yield _tradeoff(group, timing, lines)


def _tradeoff(group: Group, timing: Timing, lines: Sequence[Line]) -> Chart:
    model = timing.rows[0].model
    other = "" if group.model.endswith(model) else " The two were not measured on the same model."
    return Chart(
        slug("trade-off", group.slug, timing.name),
        f"accuracy of {titled(group)}; speed of {timing.title}",
        f"speedup over dense: {model} on {timing.bench.device}",
        f"problems right, %: {group.model}",
        tuple(lines),
        y_range=RANGE,
        note=f"Speed from {timing.conditions}{other}",
    )


def _point(row: BenchRow, answer: ComparisonRow, sizes: Sequence[int]) -> Point | None:
    found = percents(answer.summary.problems) if answer.summary else None
    if found is None:
        return None
    size = sizes.index(row.rows) / max(1, len(sizes) - 1)
    return Point(row.ratio.median, *found, along=(row.ratio.low, row.ratio.high), size=size)
