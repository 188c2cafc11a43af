"""Summaries as tables for people and as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from regrow import table
from regrow.analysis.summary import Share, Summary
from regrow.format import NONE, megabytes, percent
from regrow.run_config import RunConfig
from regrow.table import Column, Table

COLUMNS: Final = (
    Column("method", right=False, narrow=False),
    Column("parameters", right=False, narrow=False),
    Column("batch"),
    Column("problems right"),
    Column("95 % interval"),
    Column("prompts fully right", narrow=False),
    Column("sparse steps", narrow=False),
    Column("actual sparsity"),
    Column("MB/token", narrow=False),
    Column("FFN MB/token", narrow=False),
    Column("refresh MB/token", narrow=False),
    Column("FFN MB/step", narrow=False),
    Column("median tokens"),
    Column("90th percentile", narrow=False),
    Column("at length cap", narrow=False),
    Column("decode tokens/s"),
)
NOT_GRADED: Final = "not graded"  # stands for a share of answers without marks
_WHO: Final = COLUMNS[:3]  # method, parameters, batch


def markdown(summaries: Sequence[Summary]) -> str:
    """Returns two tables for each setting: the runs, and their accuracy by problem family.

    A setting is a model, task, limits and device. Each record file has a row in both tables.
    """
    settings: dict[str, list[Summary]] = {}
    for summary in summaries:
        settings.setdefault(setting(summary.config), []).append(summary)
    return "\n\n".join(_section(title, rows) for title, rows in settings.items()) + "\n"


def to_json(summaries: Sequence[Summary]) -> str:
    """Returns a JSON list of objects with the fields of Summary and the key of the configuration.

    Shares include their value and 95 % interval.
    """
    found = [{**summary.to_dict(), "key": summary.config.key} for summary in summaries]
    return json.dumps(found, indent=2, allow_nan=False) + "\n"


def setting(config: RunConfig) -> str:
    """Returns what the runs of a table have in common, in words."""
    chat = "chat template" if config.chat else "no chat template"
    return (
        f"{config.task}, {config.limit} prompts in {config.order} order: "
        f"{config.model} ({config.fingerprint[:12]}), {config.dtype} on {config.device}, "
        f"{chat}, {config.sampling}, at most {config.max_new_tokens} new tokens"
    )


def runs(rows: Sequence[Summary], title: str = "", *, numbered: str = "Row") -> Table:
    """Returns the table of the runs. Its notes begin with the word `numbered` and the number of the row."""
    return Table.of(COLUMNS, [_run(row) for row in rows], title, _notes(rows, numbered))


def families(rows: Sequence[Summary]) -> Table:
    """Returns the accuracy of the runs by problem family. Narrow tables have the families alone."""
    names = sorted({family for row in rows for family in row.families})
    who = [Column(column.header, right=column.right, narrow=False) for column in _WHO]
    return Table.of(
        [*who, *map(Column, names)], [[*_who(row.config), *_by_family(row, names)] for row in rows]
    )


def has_families(rows: Sequence[Summary]) -> bool:
    """Returns False if no run has families, because its prompts ask one problem each."""
    return any(family for row in rows for family in row.families)


def _section(title: str, rows: Sequence[Summary]) -> str:
    found = [runs(rows, title), *([families(rows)] if has_families(rows) else [])]
    return "\n\n".join(map(table.markdown, found))


def _notes(rows: Sequence[Summary], numbered: str) -> list[str]:
    """Returns notes that a reader needs before comparing the rows. Rows with the same note share it."""
    notes, shared = [], dict[str, list[int]]()
    for number, row in enumerate(rows, 1):
        if row.missing:
            notes.append(
                f"{numbered} {number} is incomplete: "
                f"{len(row.missing)} of {row.config.batches} batches are missing."
            )
        if len(row.versions) > 1:
            notes.append(f"{numbered} {number} was made with {len(row.versions)} different sets of versions.")
        for note in row.notes:
            shared.setdefault(note, []).append(number)
    for note, numbers in shared.items():
        plural = "s" if len(numbers) > 1 else ""
        notes.append(f"{numbered}{plural} {', '.join(map(str, numbers))}: {note}.")
    return notes


def _run(row: Summary) -> list[str]:
    return [
        *_who(row.config),
        _share(row.problems),
        interval(row.problems),
        _share(row.prompts),
        percent(row.counters.sparse_share),
        percent(row.counters.actual_sparsity),
        megabytes(row.counters.bytes_per_token),
        megabytes(row.counters.ffn_bytes_per_token),
        megabytes(row.counters.refresh_bytes_per_token),
        megabytes(row.counters.ffn_bytes_per_step),
        f"{row.median_tokens:g}",
        str(row.p90_tokens),
        _share(row.at_cap),
        NONE
        if row.counters.decode_tokens_per_second is None
        else f"{row.counters.decode_tokens_per_second:.1f}",
    ]


def _who(config: RunConfig) -> list[str]:
    shown = [f"{name}={value}" for name, value in config.params.items()]
    if config.skip_layers:
        shown.append(f"skip_layers={','.join(map(str, config.skip_layers))}")
    return [config.method, ", ".join(shown) or NONE, str(config.batch_size)]


def _by_family(row: Summary, families: Sequence[str]) -> list[str]:
    return [_share(row.families[family]) if family in row.families else NONE for family in families]


def interval(share: Share) -> str:
    """Returns the 95 % interval of a share as text; a dash if nothing was counted."""
    ends = share.interval()
    return NONE if ends is None else f"{percent(ends[0])} to {percent(ends[1])}"


def _share(share: Share) -> str:
    return f"{share.right}/{share.total} ({percent(share.value)})" if share.total else NOT_GRADED
