"""The table of a comparison, as rows, Markdown and JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, final

from regrow.analysis.paired import Paired, paired
from regrow.analysis.summary import Summary, summarize
from regrow.format import NONE, megabytes, percent
from regrow.format import markdown as markdown_table
from regrow.records import Graded

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

CLOSE: Final = 0.05  # sparsities of answers and traces that are no further apart go for the same

# Those that fit a terminal.
NARROW: Final = (
    "method",
    "batch",
    "actual sparsity",
    "KL to dense",
    "same top token",
    "problems right",
    "against dense",
)


@final
@dataclass(frozen=True)
class ComparisonRow:
    """One cell. None is what has not been run."""

    label: str
    batch_size: int
    target: float
    divergence: Mapping[str, Any] | None  # as its file has it
    summary: Summary | None
    against_dense: Paired | None  # at the same batch size

    @property
    def measured(self) -> Mapping[str, Any] | None:
        """The divergence, unless nothing was pruned where something should have been: then it is that of the dense model from itself."""
        return None if self.divergence is None or self._unpruned(self.divergence) else self.divergence

    @property
    def notes(self) -> list[str]:
        """What a reader must know of a row whose answers, or whose traces, were all dense."""
        where, found = f"{self.label}, batch {self.batch_size}", []
        if self.summary is not None and self.summary.note:
            found.append(f"{where}: {self.summary.note}.")
        if self.divergence is not None and self._unpruned(self.divergence):
            init = self.divergence["settings"].get("params", {}).get("init_steps")
            why = f": pruning begins after {init} of them (init_steps)" if init else ""
            found.append(
                f"{where}: every step along the dense answers was dense, and there is no divergence to show{why}."
            )
        return found

    def _unpruned(self, divergence: Mapping[str, Any]) -> bool:
        return bool(self.target) and divergence["weights_kept"] == divergence["weights_dense"]


def row(
    label: str,
    batch_size: int,
    target: float,
    divergence: Mapping[str, Any] | None,
    graded: Graded | None,
    dense: Graded | None,
) -> ComparisonRow:
    """`dense` are the answers of the dense model at the same batch size; incomplete runs are not compared."""
    both = (
        graded is not None
        and dense is not None
        and not graded.missing
        and not dense.missing
        and graded is not dense
    )
    against = (
        paired(graded.batches, dense.batches) if both and graded is not None and dense is not None else None
    )
    return ComparisonRow(
        label, batch_size, target, divergence, None if graded is None else summarize(graded), against
    )


def cells(row: ComparisonRow) -> list[str]:
    """As COLUMNS."""
    s, d, a = row.summary, row.measured, row.against_dense
    low, high = s.problems.interval() if s else (0.0, 1.0)
    return [
        row.label,
        str(row.batch_size),
        percent(row.target, 0),
        percent(_sparsity(row)),
        megabytes(None if s is None else s.counters.bytes_per_token, 3),
        NONE if d is None else f"{d['mean_kl']:.2g}{_elsewhere(row)}",
        percent(None if d is None else d["agreement"]),
        NONE if s is None else _share(s),
        NONE if s is None else f"{percent(low)} to {percent(high)}",
        NONE if a is None else f"{100 * a.difference:+.1f} (p {_p(a.p)})",
        NONE if s is None else f"{s.median_tokens:g}",
        percent(None if s is None else s.at_cap.value),
    ]


def markdown(rows: Sequence[ComparisonRow]) -> str:
    notes = [note for row in rows for note in row.notes]
    return "\n\n".join([markdown_table(COLUMNS, [cells(row) for row in rows]), *notes]) + "\n"


def to_json(rows: Sequence[ComparisonRow]) -> str:
    """A list of objects with the fields of ComparisonRow; shares bring their value and 95 % interval."""
    return json.dumps([_object(row) for row in rows], indent=1, allow_nan=False) + "\n"


def _object(row: ComparisonRow) -> dict[str, Any]:
    return {**asdict(row), "summary": None if row.summary is None else row.summary.to_dict()}


def _sparsity(row: ComparisonRow) -> float | None:
    """Of the answers; where there are none, of the traces."""
    return _traced(row) if row.summary is None else row.summary.counters.actual_sparsity


def _traced(row: ComparisonRow) -> float | None:
    """The sparsity at which the divergence was measured."""
    return (
        None
        if row.divergence is None
        else 1 - row.divergence["weights_kept"] / row.divergence["weights_dense"]
    )


def _elsewhere(row: ComparisonRow) -> str:
    """The sparsity of a divergence, where it is another one than the row's."""
    shown, own = _sparsity(row), _traced(row)
    return f" (at {percent(own)})" if own is not None and (shown is None or abs(shown - own) > CLOSE) else ""


def _share(summary: Summary) -> str:
    share, missing = summary.problems, f", {len(summary.missing)} batches missing" if summary.missing else ""
    return f"{percent(share.value)} ({share.right}/{share.total}{missing})"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
