"""Graded record files as tables for a terminal: the columns that fit there; `regrow table --markdown` has all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from regrow.format import NONE, parameters, percent, rate

if TYPE_CHECKING:
    from regrow.analysis.summary import Share, Summary
    from regrow.run_config import RunConfig


def print_tables(console: Console, summaries: Sequence[Summary]) -> None:
    console.print(_runs(summaries))
    console.print(_families(summaries))
    for number, summary in enumerate(summaries, 1):
        if summary.missing:
            console.print(
                f"Run {number} is incomplete: {len(summary.missing)} of {summary.config.batches} batches are missing.", style="yellow"
            )
        if summary.note:
            console.print(f"Run {number}: {summary.note}.", style="yellow")


def _runs(summaries: Sequence[Summary]) -> Table:
    table = Table("run", "method", "batch", "problems right", "95 % interval", "actual sparsity", "median tokens", "tokens/s")
    for column in table.columns[2:]:
        column.justify = "right"
    for number, summary in enumerate(summaries, 1):
        config, (low, high) = summary.config, summary.problems.interval()
        table.add_row(
            str(number),
            _method(config),
            str(config.batch_size),
            _share(summary.problems),
            f"{percent(low)} – {percent(high)}",
            percent(summary.counters.actual_sparsity),
            f"{summary.median_tokens:g}",
            rate(summary.counters.decode_tokens_per_second),
        )
    return table


def _method(config: RunConfig) -> str:
    """Its name, sparsity, and the parameters that are not the defaults."""
    from regrow.method.presets import METHODS
    from regrow.method.presets import parameters as defaults

    known = defaults(config.method) if config.method in METHODS else {}
    told = {name: value for name, value in config.params.items() if name == "sparsity" or name not in known or value != known[name]}
    return f"{config.method} ({parameters(told)})" if told else config.method


def _families(summaries: Sequence[Summary]) -> Table:
    table = Table("problems right", *(f"run {number}" for number in range(1, len(summaries) + 1)))
    for column in table.columns[1:]:
        column.justify = "right"
    for family in sorted({family for summary in summaries for family in summary.families}):
        table.add_row(family, *(_share(s.families[family]) if family in s.families else NONE for s in summaries))
    return table


def _share(share: Share) -> str:
    return f"{share.right}/{share.total} ({percent(share.value)})"
