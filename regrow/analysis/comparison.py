"""The table of a comparison, as rows, Markdown and JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, final

from regrow.analysis.paired import Paired, paired
from regrow.analysis.summary import Share, Summary, summarize
from regrow.records import Graded

NONE: Final = "–"
COLUMNS: Final = (
    "method",
    "batch",
    "target",
    "actual sparsity",
    "MB/token",
    "KL to dense",
    "same top token",
    "problems right",
    "95 % interval",
    "against dense",
    "median tokens",
    "at length cap",
)


# Those that fit a terminal.
NARROW: Final = ("method", "batch", "actual sparsity", "KL to dense", "same top token", "problems right", "against dense")


@final
@dataclass(frozen=True)
class Row:
    """One cell. None is what has not been run."""

    label: str
    batch_size: int
    target: float
    divergence: Mapping[str, Any] | None  # as its file has it
    summary: Summary | None
    against_dense: Paired | None  # at the same batch size


def row(
    label: str, batch_size: int, target: float, divergence: Mapping[str, Any] | None, graded: Graded | None, dense: Graded | None
) -> Row:
    """`dense` are the answers of the dense model at the same batch size; incomplete runs are not compared."""
    both = graded is not None and dense is not None and not graded.missing and not dense.missing and graded is not dense
    against = paired(graded.batches, dense.batches) if both and graded is not None and dense is not None else None
    return Row(label, batch_size, target, divergence, None if graded is None else summarize(graded), against)


def cells(row: Row) -> list[str]:
    """As COLUMNS."""
    s, d, a = row.summary, row.divergence, row.against_dense
    low, high = s.problems.interval() if s else (0.0, 1.0)
    return [
        row.label,
        str(row.batch_size),
        _percent(row.target, 0),
        _percent(_sparsity(row)),
        NONE if s is None or s.bytes_per_token is None else f"{s.bytes_per_token / 1e6:.3g}",
        NONE if d is None else f"{d['mean_kl']:.2g}",
        _percent(None if d is None else d["agreement"]),
        NONE if s is None else _share(s),
        NONE if s is None else f"{_percent(low)} to {_percent(high)}",
        NONE if a is None else f"{100 * a.difference:+.1f} (p {_p(a.p)})",
        NONE if s is None else f"{s.median_tokens:g}",
        _percent(None if s is None else s.at_cap.value),
    ]


def markdown(rows: Sequence[Row]) -> str:
    lines = [COLUMNS, ["---"] * len(COLUMNS), *map(cells, rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def to_json(rows: Sequence[Row]) -> str:
    """A list of objects with the fields of Row; shares bring their value and 95 % interval."""
    return json.dumps([_object(row) for row in rows], indent=1, allow_nan=False) + "\n"


def _object(row: Row) -> dict[str, Any]:
    found = asdict(row)
    if row.summary is not None:
        for name in ("problems", "prompts", "at_cap"):
            found["summary"][name] = _value(getattr(row.summary, name))
        found["summary"]["families"] = {name: _value(share) for name, share in row.summary.families.items()}
    return found


def _value(share: Share) -> dict[str, Any]:
    return {**asdict(share), "value": share.value, "interval_95": list(share.interval())}


def _sparsity(row: Row) -> float | None:
    """Of the answers; where there are none, of the traces."""
    if row.summary is not None:
        return row.summary.actual_sparsity
    return None if row.divergence is None else 1 - row.divergence["weights_kept"] / row.divergence["weights_dense"]


def _share(summary: Summary) -> str:
    share, missing = summary.problems, f", {len(summary.missing)} batches missing" if summary.missing else ""
    return f"{_percent(share.value)} ({share.right}/{share.total}{missing})"


def _percent(value: float | None, digits: int = 1) -> str:
    return NONE if value is None else f"{100 * value:.{digits}f} %"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
