"""Summaries as Markdown tables for people and as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence

from regrow.analysis.summary import Share, Summary
from regrow.format import NONE, cell, megabytes, percent
from regrow.format import markdown as markdown_table
from regrow.run_config import RunConfig

COLUMNS = (
    "method",
    "parameters",
    "batch",
    "problems right",
    "95 % interval",
    "prompts fully right",
    "sparse steps",
    "actual sparsity",
    "MB/token",
    "FFN MB/token",
    "refresh MB/token",
    "FFN MB/step",
    "median tokens",
    "90th percentile",
    "at length cap",
    "decode tokens/s",
)


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


def _section(title: str, rows: Sequence[Summary]) -> str:
    families = sorted({family for row in rows for family in row.families})
    parts = [
        f"### {cell(title)}",
        markdown_table(COLUMNS, [_run(row) for row in rows]),
        *_notes(rows),
        markdown_table(
            ("method", "parameters", "batch", *families),
            [[*_who(row.config), *_by_family(row, families)] for row in rows],
        ),
    ]
    return "\n\n".join(parts)


def _notes(rows: Sequence[Summary]) -> list[str]:
    """Returns notes that a reader needs before comparing the rows."""
    notes = []
    for number, row in enumerate(rows, 1):
        if row.missing:
            notes.append(
                f"Row {number} is incomplete: {len(row.missing)} of {row.config.batches} batches are missing."
            )
        if len(row.versions) > 1:
            notes.append(f"Row {number} was made with {len(row.versions)} different sets of versions.")
        notes += [f"Row {number}: {note}." for note in row.notes]
    return notes


def _run(row: Summary) -> list[str]:
    low, high = row.problems.interval()
    return [
        *_who(row.config),
        _share(row.problems),
        f"{percent(low)} to {percent(high)}",
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


def _share(share: Share) -> str:
    return f"{share.right}/{share.total} ({percent(share.value)})"
