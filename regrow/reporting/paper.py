"""The paper's own numbers beside ours, where both have the cell."""

from __future__ import annotations

from collections.abc import Sequence

from regrow import paper_results
from regrow.analysis.comparison_table import ComparisonRow
from regrow.analysis.summary import Share
from regrow.bench.bench_result import TITLES
from regrow.format import NONE, percent, rate, ratio
from regrow.paper_results import SHAPES, Accuracy, shape_of
from regrow.reporting.groups import Group
from regrow.reporting.section import Section, percents
from regrow.reporting.speed import Timing, method
from regrow.table import Column, Table


def beside_the_paper(groups: Sequence[Group], timings: Sequence[Timing]) -> Section:
    """Returns the numbers of the paper beside ours of the same task, method, sparsity and batch size."""
    found = [table for table in (_accuracies(groups), _speeds(timings)) if table.rows]
    return Section(
        "paper",
        "The paper's numbers beside these",
        "Numbers that the paper prints for the same task, method, target sparsity and batch size. Each names "
        "its model: a number of another model is no reproduction of the paper's, and neither is a speed on "
        "another device or with other lengths. The paper's conditions: "
        f"{paper_results.results()['conditions']}.",
        tuple(found),
        "No run here has a task, method, sparsity and batch size in common with the paper's tables.",
    )


def _accuracies(groups: Sequence[Group]) -> Table:
    columns = [
        *(Column(name, right=False) for name in ("task", "method")),
        *map(Column, ("sparsity", "batch")),
        Column("model of the paper", right=False),
        Column("paper"),
        Column("model here", right=False),
        Column("lenient score here"),
        Column("strict score here"),
        Column("same model", right=False),
    ]
    rows = [
        _row(group, row, printed)
        for group in groups
        for row in group.answered
        for printed in paper_results.accuracies()
        if _same_cell(group, row, printed)
    ]
    return Table.of(columns, rows, "Accuracy")


def _same_cell(group: Group, row: ComparisonRow, printed: Accuracy) -> bool:
    """Returns True if both are of one task, method, sparsity and batch size, if the paper states that."""
    mine = group.config.task, row.label, row.target
    return mine == (printed.task, printed.method, printed.target) and printed.batch_size in (
        None,
        row.batch_size,
    )


def _row(group: Group, row: ComparisonRow, printed: Accuracy) -> list[str]:
    scores = (row.summary.paper, row.summary.problems) if row.summary else ()
    same = group.model.rsplit("/", 1)[-1] == printed.model
    batch = str(row.batch_size) if printed.batch_size else f"{row.batch_size} (the paper: not stated)"
    return [
        group.name,
        row.label,
        percent(row.target, 0),
        batch,
        printed.model,
        f"{printed.percent:.1f} %",
        group.model,
        *(_score(share) for share in scores),
        "yes, by name" if same else "no",
    ]


def _score(share: Share) -> str:
    found = percents(share)
    return NONE if found is None else f"{found[0]:.1f} %\n({found[1][0]:.1f} to {found[1][1]:.1f})"


def _speeds(timings: Sequence[Timing]) -> Table:
    columns = [
        Column("method", right=False),
        Column("batch"),
        Column("model and device of the paper", right=False),
        Column("tokens/s"),
        Column("speedup"),
        Column("model and device here", right=False),
        Column("tokens/s here"),
        Column("speedup here"),
    ]
    rows = [
        (
            printed.method,
            str(row.rows),
            f"{printed.model}\none H200",
            rate(printed.tokens_per_second),
            ratio(printed.ratio),
            f"{row.model}{_weights(row.model)}\n{timing.bench.device}",
            rate(row.tokens_per_second.median),
            ratio(row.ratio.median),
        )
        for timing in timings
        if timing.sparsity in (None, 0.5)
        if any(row.label in TITLES and row.label != "dense" for row in timing.rows)
        for row in sorted(timing.rows, key=lambda row: row.rows)
        for printed in paper_results.speeds()
        if (method(row), row.rows) == (printed.method, printed.batch_size)
        if shape_of(row.model) == SHAPES[printed.model]
    ]
    silent = dict.fromkeys(timing.bench.name for timing in timings if timing.sparsity is None and rows)
    notes = [f"{name} does not state its target sparsity." for name in silent]
    return Table.of(columns, rows, "Decoding speed at 50 % target sparsity, models of the same shape", notes)


def _weights(model: str) -> str:
    return ", random weights" if model in SHAPES.values() else ""
