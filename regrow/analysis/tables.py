"""Summaries as Markdown for people and as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from regrow.analysis.summary import Share, Summary
from regrow.records import RunConfig

NONE = "–"
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
    """For each setting (model, task, limits, device) two tables, a row a record file: the run, and its accuracy by problem family."""
    settings: dict[str, list[Summary]] = {}
    for summary in summaries:
        settings.setdefault(_setting(summary.config), []).append(summary)
    return "\n\n".join(_section(title, rows) for title, rows in settings.items()) + "\n"


def to_json(summaries: Sequence[Summary]) -> str:
    """A list of objects with the fields of Summary; shares bring their value and 95 % interval, the configuration its key."""
    return json.dumps([_object(summary) for summary in summaries], indent=2, allow_nan=False) + "\n"


def _setting(config: RunConfig) -> str:
    chat = "chat template" if config.chat else "no chat template"
    return (
        f"{config.task}, {config.limit} prompts in {config.order} order: {config.model} ({config.fingerprint[:12]}), "
        f"{config.dtype} on {config.device}, {chat}, {config.sampling}, at most {config.max_new_tokens} new tokens"
    )


def _section(title: str, rows: Sequence[Summary]) -> str:
    families = sorted({family for row in rows for family in row.families})
    parts = [
        f"### {_cell(title)}",
        _table(COLUMNS, [_run(row) for row in rows]),
        *_notes(rows),
        _table(("method", "parameters", "batch", *families), [[*_who(row.config), *_by_family(row, families)] for row in rows]),
    ]
    return "\n\n".join(parts)


def _notes(rows: Sequence[Summary]) -> list[str]:
    """What a reader must know before comparing the rows."""
    notes = []
    for number, row in enumerate(rows, 1):
        if row.missing:
            notes.append(f"Row {number} is incomplete: {len(row.missing)} of {row.config.batches} batches are missing.")
        if len(row.versions) > 1:
            notes.append(f"Row {number} was made with {len(row.versions)} different sets of versions.")
    return notes


def _run(row: Summary) -> list[str]:
    low, high = row.problems.interval()
    return [
        *_who(row.config),
        _share(row.problems),
        f"{_percent(low)} to {_percent(high)}",
        _share(row.prompts),
        _percent(row.sparse_share),
        _percent(row.actual_sparsity),
        _megabytes(row.bytes_per_token),
        _megabytes(row.ffn_bytes_per_token),
        _megabytes(row.refresh_bytes_per_token),
        _megabytes(row.ffn_bytes_per_step),
        f"{row.median_tokens:g}",
        str(row.p90_tokens),
        _share(row.at_cap),
        NONE if row.decode_tokens_per_second is None else f"{row.decode_tokens_per_second:.1f}",
    ]


def _who(config: RunConfig) -> list[str]:
    shown = [f"{name}={value}" for name, value in config.params.items()]
    if config.skip_layers:
        shown.append(f"skip_layers={','.join(map(str, config.skip_layers))}")
    return [config.method, ", ".join(shown) or NONE, str(config.batch_size)]


def _by_family(row: Summary, families: Sequence[str]) -> list[str]:
    return [_share(row.families[family]) if family in row.families else NONE for family in families]


def _share(share: Share) -> str:
    return f"{share.right}/{share.total} ({_percent(share.value)})"


def _percent(value: float | None) -> str:
    return NONE if value is None else f"{100 * value:.1f} %"


def _megabytes(count: float | None) -> str:
    return NONE if count is None else f"{count / 1e6:.4g}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _object(summary: Summary) -> dict[str, Any]:
    return asdict(summary) | {
        "key": summary.config.key,
        "problems": _value(summary.problems),
        "prompts": _value(summary.prompts),
        "at_cap": _value(summary.at_cap),
        "families": {family: _value(share) for family, share in summary.families.items()},
    }


def _value(share: Share) -> dict[str, Any]:
    return {"right": share.right, "total": share.total, "value": share.value, "interval_95": share.interval()}
