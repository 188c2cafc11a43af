"""What pruning saves and what it costs: bytes, divergence from dense, lengths of answers, and ablations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from regrow.analysis.chart import Chart, Point
from regrow.analysis.comparison_table import ComparisonRow
from regrow.format import NONE, percent
from regrow.method.batchwise_adaptive import BatchwiseAdaptive
from regrow.reporting.accuracy import RANGE, by_batch_size, target_text, titled
from regrow.reporting.groups import Group, main, slug
from regrow.reporting.section import Section, by_label, complete, line, percents
from regrow.table import Column, Table

# The parameters in the ablation of Batch-wise Adaptive Pruning, and their columns.
_ABLATED: Final = {
    "init_steps": "T_init",
    "explore_steps": "T_e",
    "period": "T_trans",
    "aggregate": "aggregation",
    "memory": "memory",
    "selection": "selection",
    "weigh": "weighed by",
}


def ablation(groups: Sequence[Group]) -> Section:
    """Returns a row for every setting of Batch-wise Adaptive Pruning (table 3 of the paper)."""
    return Section(
        "ablation",
        "Hyperparameters of Batch-wise Adaptive Pruning",
        "T_init dense decode steps begin a batch; a cycle has T_trans steps, the last T_e of them dense. KL "
        "and top token compare the next-token distributions with dense ones, along dense answers.",
        tuple(table for group in groups for table in _ablations(group)),
        "Batch-wise Adaptive Pruning was not run with different parameters at one batch size and sparsity.",
    )


def against_bytes(groups: Sequence[Group]) -> Section:
    """Returns charts of accuracy against the FFN bytes that a decode step reads."""
    return Section(
        "bytes",
        "Accuracy against FFN bytes",
        "FFN weights that a decode step reads, in percent of what the dense model reads at the same batch "
        "size. A line joins the sparsities of a method; bars are 95 % intervals.",
        tuple(chart for group in groups for chart in _bytes_charts(group)),
        "No pruned run has a dense run at the same batch size beside it.",
    )


def divergence(groups: Sequence[Group]) -> Section:
    """Returns the divergence of the next-token distributions from the dense ones."""
    return Section(
        "divergence",
        "Divergence from dense",
        "Mean KL(dense ‖ pruned) of a token in nats, and the share of tokens at which both models have the "
        "same top token, along dense answers.",
        tuple(
            by_batch_size(group, rows, _divergence, [])
            for group in groups
            if (rows := [row for row in group.rows if row.target and row.divergence is not None])
        ),
        "No divergence files, which `regrow compare` writes.",
    )


def lengths(groups: Sequence[Group]) -> Section:
    """Returns the tokens to an answer, and the share of answers at the limit."""
    parts: list[Table | Chart] = [chart for group in groups for chart in _length_charts(group)]
    for group in groups:
        if group.answered:
            limit = f"An answer is cut at {group.config.max_new_tokens} tokens."
            parts.append(by_batch_size(group, group.answered, _length, [limit]))
    return Section(
        "lengths",
        "Tokens to an answer",
        "A pruned model may think longer, or never finish: the median number of new tokens, the 90th "
        "percentile, and the share of answers that were cut at the limit.",
        tuple(parts),
        "No record files, so there are no lengths.",
    )


def _ablations(group: Group) -> Iterator[Table]:
    rows = [
        row
        for row in group.answered
        if row.summary and row.summary.config.method == "bap" and not row.summary.config.skip_layers
    ]
    cells = [(row.target, row.batch_size) for row in rows]
    shown = [row for row in rows if cells.count((row.target, row.batch_size)) > 1]
    if shown:
        results = ("problems right", "95 % interval", "actual sparsity", "KL", "same top token")
        columns = [Column("sparsity"), Column("batch"), *map(Column, (*_ABLATED.values(), *results))]
        yield Table.of(columns, [_ablated(row) for row in shown], titled(group))


def _ablated(row: ComparisonRow) -> list[str]:
    params = {**BatchwiseAdaptive.added, **(row.summary.config.params if row.summary else {})}
    found = percents(row.summary.problems) if row.summary else None
    kl, top = ("", "") if row.measured is None else _divergence(row).split("\n")
    return [
        percent(row.target, 0),
        str(row.batch_size),
        *(str(params.get(name, NONE)) for name in _ABLATED),
        NONE if found is None else f"{found[0]:.1f} %",
        NONE if found is None else f"{found[1][0]:.1f} to {found[1][1]:.1f}",
        percent(row.summary.counters.actual_sparsity if row.summary else None),
        kl or NONE,
        top or NONE,
    ]


def _divergence(row: ComparisonRow) -> str:
    return (
        NONE
        if row.measured is None
        else f"{row.measured['mean_kl']:.2g}\n{percent(row.measured['agreement'])}"
    )


def _length(row: ComparisonRow) -> str:
    s = row.summary
    if s is None:
        return NONE
    return f"{s.median_tokens:g}, 90th: {s.p90_tokens}\n{percent(s.at_cap.value)} at the limit"


def _length_charts(group: Group) -> Iterator[Chart]:
    rows = main(group.answered)
    for target in dict.fromkeys(row.target for row in rows if row.target):
        shown = [row for row in rows if row.target in (0.0, target)]
        sizes = sorted({row.batch_size for row in shown if row.target})
        lines = [
            line(label, [_tokens(row, sizes) for row in own if row.batch_size in sizes])
            for label, own in by_label(shown).items()
        ]
        yield Chart(
            slug("lengths", group.slug, target),
            titled(group, target_text(target)),
            "batch size",
            "new tokens: median, up to the 90th percentile",
            tuple(one for one in lines if one.points),
            tuple(map(str, sizes)),
        )


def _tokens(row: ComparisonRow, sizes: Sequence[int]) -> Point | None:
    s = row.summary
    if s is None:
        return None
    return Point(
        sizes.index(row.batch_size), s.median_tokens, (s.median_tokens, max(s.median_tokens, s.p90_tokens))
    )


def _bytes_charts(group: Group) -> Iterator[Chart]:
    for size in group.batch_sizes:
        rows = [row for row in main(group.answered) if row.batch_size == size and complete(row)]
        dense = next((row for row in rows if not row.target), None)
        whole = dense.summary.counters.ffn_bytes_per_step if dense and dense.summary else None
        if not whole or all(not row.target for row in rows):
            continue
        lines = [line(label, [_read(row, whole) for row in own]) for label, own in by_label(rows).items()]
        yield Chart(
            slug("bytes", group.slug, size),
            titled(group, f"batch {size}"),
            "FFN weights read by a decode step, % of dense",
            "problems right, %",
            tuple(one for one in lines if one.points),
            y_range=RANGE,
            x_range=(0, 106),
        )


def _read(row: ComparisonRow, whole: float) -> Point | None:
    found = percents(row.summary.problems) if row.summary else None
    read = row.summary.counters.ffn_bytes_per_step if row.summary else None
    return None if found is None or read is None else Point(100 * read / whole, *found)
