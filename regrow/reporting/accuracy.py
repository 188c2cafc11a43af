"""Accuracy: by method and batch size, and against the target sparsity."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from math import sqrt
from typing import Final

from regrow.analysis.chart import Chart, Point
from regrow.analysis.comparison_table import ComparisonRow
from regrow.analysis.paired import Paired
from regrow.format import NONE, percent
from regrow.reporting.groups import Group, main, slug
from regrow.reporting.section import Section, by_label, complete, line, percents
from regrow.table import Column, Table

RANGE: Final = (-4.0, 104.0)  # percent, of an axis of accuracy
_Means = dict[tuple[str, float, int], tuple[float, tuple[float, float]]]


def accuracy(groups: Sequence[Group]) -> Section:
    """Returns the accuracies of every method, sparsity, task and batch size (tables 2 and 4 of the paper)."""
    overviews = [_overview(some) for some in tasks(groups) if len(some) > 1]
    return Section(
        "accuracy",
        "Accuracy",
        "Problems answered right by the strict score, with the 95 % interval (Wilson, widened for prompts "
        "that share a mask); the lenient score, which stands for the paper's evaluation framework, if it "
        "differs; and the difference from dense at the same batch size in percentage points, with the "
        "p-value of a paired sign-flip test over batches.",
        tuple(overviews + [_table(group) for group in groups if group.answered]),
        "No record files, so there are no accuracies.",
    )


def against_batch_size(groups: Sequence[Group]) -> Section:
    """Returns charts of accuracy against batch size at each target sparsity (figure 4 of the paper)."""
    return Section(
        "batch-size",
        "Accuracy against batch size",
        "A mask is shared by a batch, so accuracy can depend on the batch size. Bars are 95 % intervals.",
        tuple(_batch_charts(groups)),
        "No method was run at two batch sizes or more.",
    )


def against_sparsity(groups: Sequence[Group]) -> Section:
    """Returns charts of accuracy and actual sparsity against target sparsity (figure 5 of the paper)."""
    return Section(
        "sparsity",
        "Accuracy and actual sparsity against target sparsity",
        "Actual sparsity is the share of the prunable weights that all decode steps together left out. Bars "
        "are 95 % intervals.",
        tuple(chart for group in groups for chart in _sparsity_charts(group)),
        "No method was run at two target sparsities or more.",
    )


def tasks(groups: Sequence[Group]) -> list[list[Group]]:
    """Returns, for each model, the group of each task: the one with most answers, if a task has several."""
    found: dict[str, dict[str, Group]] = {}
    for group in sorted(groups, key=lambda group: -len(group.answered)):
        if group.answered:
            found.setdefault(group.config.fingerprint, {}).setdefault(group.config.task, group)
    return [list(some.values()) for some in found.values()]


def titled(group: Group, *parts: str) -> str:
    return ", ".join([f"{group.model}: {group.name}", *parts])


def target_text(target: float) -> str:
    return f"{100 * target:g} % target sparsity"


def by_batch_size(
    group: Group, rows: Sequence[ComparisonRow], cell: Callable[[ComparisonRow], str], notes: Sequence[str]
) -> Table:
    """Returns a table with a row for each method and sparsity, and a column for each batch size."""
    sizes = sorted({row.batch_size for row in rows})
    found: dict[tuple[str, float], dict[int, str]] = {}
    for row in rows:
        found.setdefault((row.label, row.target), {})[row.batch_size] = cell(row)
    columns = [
        Column("method", right=False),
        Column("sparsity"),
        *(Column(f"batch {size}") for size in sizes),
    ]
    lines = [
        (label, percent(target, 0), *(cells.get(size, NONE) for size in sizes))
        for (label, target), cells in found.items()
    ]
    return Table.of(columns, lines, titled(group), notes)


def _table(group: Group) -> Table:
    notes = [group.setting + ".", *(note for row in group.answered for note in row.notes)]
    return by_batch_size(group, group.answered, _cell, notes)


def _cell(row: ComparisonRow) -> str:
    if row.summary is None:
        return NONE
    found, missing = percents(row.summary.problems), row.summary.missing
    lines = [NONE] if found is None else [f"{found[0]:.1f} %", f"({found[1][0]:.1f} to {found[1][1]:.1f})"]
    if found is not None and _lenient(row):
        lines.append(f"lenient {percent(row.summary.paper.value)}")
    if missing:
        lines.append(f"{len(missing)} of {row.summary.config.batches} batches missing")
    if row.against_dense is not None:
        lines.append(_difference(row.against_dense))
    return "\n".join(lines)


def _lenient(row: ComparisonRow) -> bool:
    """Returns True if the two scores of the row differ."""
    return row.summary is not None and row.summary.paper.right != row.summary.problems.right


def _difference(paired: Paired) -> str:
    p = "p < 0.001" if paired.p < 0.001 else f"p = {paired.p:.3f}"
    return f"{100 * paired.difference:+.1f}, {p}".replace("-", "−")


def _overview(groups: Sequence[Group]) -> Table:
    """Returns the accuracies of one model: a row for each method, sparsity and batch size."""
    found = [{(row.label, row.target, row.batch_size): row for row in group.answered} for group in groups]
    means, keys = _means(groups), dict.fromkeys(key for rows in found for key in rows)
    who = (Column("method", right=False), Column("sparsity"), Column("batch"))
    columns = [*who, *(Column(group.name) for group in groups), Column("mean, strict")]
    lines = [
        (
            *(key[0], percent(key[1], 0), str(key[2])),
            *(_short(rows.get(key)) for rows in found),
            f"{means[key][0]:.1f} %" if key in means else NONE,
        )
        for key in keys
    ]
    note = (
        "Strict score, with the lenient one in brackets where it differs. The mean is over the tasks, and "
        "only given where every task has been answered completely."
    )
    return Table.of(columns, lines, f"{groups[0].model}: all tasks", [note])


def _short(row: ComparisonRow | None) -> str:
    if row is None or row.summary is None:
        return NONE
    lenient = f" ({percent(row.summary.paper.value)})" if _lenient(row) else ""
    return percent(row.summary.problems.value) + lenient + ("\nincomplete" if row.summary.missing else "")


def _means(groups: Sequence[Group]) -> _Means:
    """Returns the mean over the tasks of a model, with its interval, where every task is complete.

    The distances of the interval's ends are root mean squares of those of the tasks, over the root of their
    number (the MOVER method of Zou and Donner, 2008).
    """
    found: dict[tuple[str, float, int], list[tuple[float, tuple[float, float]]]] = {}
    for group in groups:
        for row in group.answered:
            if row.summary and complete(row) and (value := percents(row.summary.problems)):
                found.setdefault((row.label, row.target, row.batch_size), []).append(value)
    means: _Means = {}
    for key, values in found.items():
        if len(values) == len(groups):
            mean = sum(value for value, _ in values) / len(values)
            below = sqrt(sum((value - low) ** 2 for value, (low, _) in values)) / len(values)
            above = sqrt(sum((high - value) ** 2 for value, (_, high) in values)) / len(values)
            means[key] = mean, (mean - below, mean + above)
    return means


def _batch_charts(groups: Sequence[Group]) -> Iterator[Chart]:
    for some in tasks(groups):
        if len(some) > 1:
            whole = replace(some[0], name="mean over the tasks", slug=slug(some[0].model, "mean"))
            yield from _batch_charts_of(whole, _means(some))
    for group in groups:
        yield from _batch_charts_of(group, _means([group]))


def _batch_charts_of(group: Group, found: _Means) -> Iterator[Chart]:
    for target in dict.fromkeys(target for _, target, _ in found if target):
        chart = _batch_chart(group, found, target)
        if chart.lines:
            yield chart


def _batch_chart(group: Group, found: _Means, target: float) -> Chart:
    """Returns the chart of the methods with at least two batch sizes at this target sparsity."""
    shown = {key: value for key, value in found.items() if key[1] in (0.0, target)}
    sizes = sorted({size for _, _, size in shown})
    lines = []
    for label in dict.fromkeys(label for label, _, _ in shown):
        points = [
            Point(sizes.index(size), value, ends)
            for (own, _, size), (value, ends) in shown.items()
            if own == label
        ]
        if len(points) > 1:
            lines.append(line(label, points))
    pruned = any(one.label != "dense" for one in lines)
    return Chart(
        slug("batch-size", group.slug, target),
        titled(group, target_text(target)),
        "batch size",
        "problems right, %",
        tuple(lines if pruned else ()),
        tuple(map(str, sizes)),
        RANGE,
    )


def _sparsity_charts(group: Group) -> Iterator[Chart]:
    for size in group.batch_sizes:
        rows = [row for row in main(group.answered) if row.batch_size == size and complete(row)]
        lines = {label: own for label, own in by_label(rows).items() if len({row.target for row in own}) > 1}
        if not lines:
            continue
        dense = next((row for row in rows if not row.target), None)
        level = percents(dense.summary.problems) if dense and dense.summary else None
        name, title = (group.slug, size), titled(group, f"batch {size}")
        note = "The dashed line is dense." if level else ""
        yield Chart(
            slug("sparsity", *name),
            title,
            "target sparsity, %",
            "problems right, %",
            tuple(line(label, [_right(row) for row in own]) for label, own in lines.items()),
            y_range=RANGE,
            level=level[0] if level else None,
            note=note,
        )
        yield Chart(
            slug("actual-sparsity", *name),
            title,
            "target sparsity, %",
            "actual sparsity, %",
            tuple(line(label, [_actual(row) for row in own]) for label, own in lines.items()),
            y_range=(0, 100),
            diagonal=True,
            note="On the dashed line, actual and target sparsity are equal.",
        )


def _right(row: ComparisonRow) -> Point | None:
    found = percents(row.summary.problems) if row.summary else None
    return Point(100 * row.target, *found) if found else None


def _actual(row: ComparisonRow) -> Point | None:
    actual = row.summary.counters.actual_sparsity if row.summary else None
    return None if actual is None else Point(100 * row.target, 100 * actual)
