"""Tables of graded record files for a terminal. They have fewer columns than `regrow table --markdown`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from regrow.format import NONE, parameters, percent, printable, rate
from regrow.run_config import canonical

if TYPE_CHECKING:
    from regrow.analysis.summary import Share, Summary
    from regrow.run_config import RunConfig

WIDE = 100  # from this width on, cells have padding
MOST_FAMILIES = 5  # runs that fit beside each other; `regrow table --markdown` shows more
NARROWEST = 60  # tables are never narrower; a narrower terminal wraps their lines
_OTHERS = 58  # width of a table without the names of its runs
# Settings that names leave out: they have a column, follow from other settings, or are shown one by one.
_ELSEWHERE = {"method", "params", "batch_size", "task_sha256", "prompts_sha256", "generation_config"}


def print_tables(console: Console, summaries: Sequence[Summary]) -> None:
    """Prints a table of the runs, a table of their problem families, and notes below."""
    console.width = max(console.width, NARROWEST)
    console.print(_runs(summaries, console.width))
    if len(summaries) <= MOST_FAMILIES:
        console.print(_families(summaries))
    for number, summary in enumerate(summaries, 1):
        if summary.missing:
            console.print(
                f"Run {number} is incomplete: "
                f"{len(summary.missing)} of {summary.config.batches} batches are missing.",
                style="yellow",
            )
        for note in summary.notes:
            console.print(f"Run {number}: {note}.", style="yellow")


def _runs(summaries: Sequence[Summary], width: int) -> Table:
    table = Table(
        "run",
        "method",
        "batch",
        "problems right",
        "95 % interval",
        "actual sparsity",
        "median tokens",
        "tokens/s",
    )
    for column in table.columns[2:]:
        column.justify = "right"
    table.padding = (0, 1) if width >= WIDE else 0
    run_names = names([summary.config for summary in summaries])
    for column in table.columns:
        column.overflow = "fold"  # wraps long names and numbers instead of cutting them off
    table.columns[1].no_wrap = True  # the other columns shrink instead
    for number, (summary, name) in enumerate(zip(summaries, run_names, strict=True), 1):
        low, high = summary.problems.interval()
        table.add_row(
            str(number),
            Text(folded(name, max(8, width - _OTHERS))),
            str(summary.config.batch_size),
            _share(summary.problems),
            f"{percent(low)} – {percent(high)}",
            percent(summary.counters.actual_sparsity),
            f"{summary.median_tokens:g}",
            rate(summary.counters.decode_tokens_per_second),
        )
    return table


def folded(name: str, width: int) -> str:
    """Puts each word on its own line, or on several lines if it is longer than `width`."""
    return "\n".join(line for word in name.split() for line in wrap(word, width))


def names(configs: Sequence[RunConfig]) -> list[str]:
    """Returns the names of the runs: the method, with the settings in which the runs differ.

    If a method has only one run, its name shows the sparsity and all parameters that are not defaults.
    """
    settings = _differing([_settings(config) for config in configs])
    return [
        _name(config, _params(config, configs) | settings_)
        for config, settings_ in zip(configs, settings, strict=True)
    ]


def _name(config: RunConfig, settings: Mapping[str, object]) -> str:
    # Digests are shortened.
    shown = {
        name: value[:12] if isinstance(value, str) and len(value) == 64 else value
        for name, value in settings.items()
    }
    return printable(f"{config.method} ({parameters(shown)})" if settings else config.method)


def _params(config: RunConfig, configs: Sequence[RunConfig]) -> dict[str, Any]:
    alike = [other for other in configs if other.method == config.method]
    return (
        _unusual(config)
        if len(alike) == 1
        else _differing([dict(other.params) for other in alike])[alike.index(config)]
    )


def _unusual(config: RunConfig) -> dict[str, Any]:
    """Returns the sparsity and the parameters that are not defaults."""
    from regrow.method.presets import METHODS
    from regrow.method.presets import parameters as defaults

    known = {**METHODS[config.method].retired, **defaults(config.method)} if config.method in METHODS else {}
    return {
        name: value
        for name, value in config.params.items()
        if name == "sparsity" or name not in known or value != known[name]
    }


def _settings(config: RunConfig) -> dict[str, Any]:
    """Returns the settings without a column. The model's generation settings appear by their own names."""
    found = config.to_dict()
    return {name: value for name, value in found.items() if name not in _ELSEWHERE} | dict(
        found.get("generation_config", {})
    )


def _differing(many: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns, for each mapping, the entries that are not the same in all mappings."""
    everything = dict.fromkeys(name for one in many for name in one)
    varying = [name for name in everything if len({canonical(one.get(name)) for one in many}) > 1]
    return [{name: one.get(name, "none") for name in varying} for one in many]


def _families(summaries: Sequence[Summary]) -> Table:
    table = Table("problems right", *(f"run {number}" for number in range(1, len(summaries) + 1)))
    for column in table.columns[1:]:
        column.justify = "right"
    for family in sorted({family for summary in summaries for family in summary.families}):
        table.add_row(
            printable(family),
            *(_share(s.families[family]) if family in s.families else NONE for s in summaries),
        )
    return table


def _share(share: Share) -> str:
    return f"{share.right}/{share.total} ({percent(share.value)})"
