"""Tables of graded record files for a terminal. They have fewer columns than `regrow table --markdown`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from rich.console import Console

from regrow.cli.terminal_table import terminal_table
from regrow.format import parameters, printable
from regrow.run_config import differing
from regrow.table import Column

if TYPE_CHECKING:
    from regrow.analysis.summary import Summary
    from regrow.run_config import RunConfig

WIDE = 100  # from this width on, cells have padding
MOST_FAMILIES = 5  # runs that fit beside each other; `regrow table --markdown` shows more
NARROWEST = 60  # tables are never narrower; a narrower terminal wraps their lines
_OTHERS = 58  # width of a table without the names of its runs
# Settings that names leave out: they have a column, follow from other settings, or are shown one by one.
_ELSEWHERE = {"method", "params", "batch_size", "generation_config"}
_OF_A_TASK = {"task_sha256", "prompts_sha256", "data_sha256", "grader"}
_OF_OTHER_TASKS = {"limit", "prompt_template", "max_new_tokens"}  # they differ between tasks by themselves


def print_tables(console: Console, summaries: Sequence[Summary]) -> None:
    """Prints a table of the runs, a table of their problem families, and notes below."""
    from regrow.analysis import tables

    console.width = max(console.width, NARROWEST)
    found = tables.runs(summaries, numbered="Run").narrowed()
    run_names = names([summary.config for summary in summaries])
    lines = [folded(printable(name), max(8, console.width - _OTHERS)) for name in run_names]
    numbers = list(map(str, range(1, len(lines) + 1)))
    who = Column("run", right=False), Column("method", right=False)
    runs = found.after(who, list(zip(numbers, lines, strict=True)))
    console.print(terminal_table(runs, padding=int(console.width >= WIDE), whole=1))
    if len(summaries) <= MOST_FAMILIES and tables.has_families(summaries):
        by_family = tables.families(summaries).narrowed()
        console.print(
            terminal_table(by_family.transposed("problems right", [f"run {number}" for number in numbers]))
        )
    for note in found.notes:
        console.print(note, style="yellow")


def folded(name: str, width: int) -> str:
    """Puts each word on its own line, or on several lines if it is longer than `width`."""
    return "\n".join(line for word in name.split() for line in wrap(word, width))


def names(configs: Sequence[RunConfig]) -> list[str]:
    """Returns the names of the runs: the method, with the settings in which the runs differ.

    If a method has only one run, its name shows the sparsity and all parameters that are not defaults.
    """
    tasks = {config.task for config in configs}
    left_out = _ELSEWHERE | _OF_A_TASK | (_OF_OTHER_TASKS if len(tasks) > 1 else set())
    settings = differing([_settings(config, left_out) for config in configs])
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
    from regrow.evaluation.labels import unusual

    alike = [other for other in configs if other.method == config.method]
    return (
        unusual(config.method, config.params)
        if len(alike) == 1
        else differing([dict(other.params) for other in alike])[alike.index(config)]
    )


def _settings(config: RunConfig, left_out: Collection[str]) -> dict[str, Any]:
    """Returns the settings that are not left out. The model's generation settings have names of their own."""
    found = config.to_dict()
    return {name: value for name, value in found.items() if name not in left_out} | dict(
        found.get("generation_config", {})
    )
