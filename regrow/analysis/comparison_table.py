"""The table of a comparison, as rows, Markdown and JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, final

from regrow import table
from regrow.analysis.paired import Paired, paired
from regrow.analysis.summary import Summary, summarize
from regrow.analysis.tables import NOT_GRADED, interval, setting
from regrow.format import NONE, megabytes, percent
from regrow.records import Graded
from regrow.table import Column, Table

COLUMNS: Final = (
    Column("method", right=False),
    Column("batch"),
    Column("target", narrow=False),
    Column("actual sparsity"),
    Column("MB/token", narrow=False),
    Column("KL to dense"),
    Column("same top token"),
    Column("problems right"),
    Column("95 % interval", narrow=False),
    Column("against dense"),
    Column("median tokens", narrow=False),
    Column("at length cap", narrow=False),
)

CLOSE: Final = 0.05  # answers and traces count as equally sparse if their sparsities differ by no more


@final
@dataclass(frozen=True)
class ComparisonRow:
    """Results of one cell of the comparison. A part that has not been run is None."""

    label: str
    batch_size: int
    target: float
    divergence: Mapping[str, Any] | None  # the content of its file
    summary: Summary | None
    against_dense: Paired | None  # at the same batch size

    @property
    def measured(self) -> Mapping[str, Any] | None:
        """The divergence; None if there is none, or if the method should have pruned and did not.

        In the second case the divergence would compare the dense model with itself.
        """
        return None if self.divergence is None or self._unpruned(self.divergence) else self.divergence

    @property
    def notes(self) -> list[str]:
        """Notes for readers, if all answers or all traces of the row were dense."""
        sparsity = f" at {100 * self.target:g} %" if self.target else ""
        where, found = f"{self.label}{sparsity}, batch {self.batch_size}", []
        if self.summary is not None:
            found += [f"{where}: {note}." for note in self.summary.notes]
        if self.divergence is not None and self._unpruned(self.divergence):
            init = self.divergence["settings"].get("params", {}).get("init_steps")
            why = f": pruning begins after {init} of them (init_steps)" if init else ""
            found.append(
                f"{where}: every step along the dense answers was dense, "
                f"and there is no divergence to show{why}."
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
    """Makes the row of one cell.

    `dense` are the dense model's answers at the same batch size. Incomplete runs are not compared with them,
    and neither are answers without grades.
    """
    both = (
        graded is not None
        and dense is not None
        and not graded.missing
        and not dense.missing
        and graded is not dense
        and any(grade.total for grade in graded.grades)
    )
    against = (
        paired(graded.batches, dense.batches) if both and graded is not None and dense is not None else None
    )
    return ComparisonRow(
        label, batch_size, target, divergence, None if graded is None else summarize(graded), against
    )


def compared(rows: Sequence[ComparisonRow], title: str = "") -> Table:
    """Returns the table of these rows, with their notes."""
    notes = [note for row in rows for note in row.notes]
    return Table.of(COLUMNS, [cells(row) for row in rows], title, notes)


def cells(row: ComparisonRow) -> list[str]:
    """Returns the texts of a row, in the order of COLUMNS."""
    s, d, a = row.summary, row.measured, row.against_dense
    return [
        row.label,
        str(row.batch_size),
        percent(row.target, 0),
        percent(_sparsity(row)),
        megabytes(None if s is None else s.counters.bytes_per_token, 3),
        NONE if d is None else f"{d['mean_kl']:.2g}{_elsewhere(row)}",
        percent(None if d is None else d["agreement"]),
        NONE if s is None else _share(s),
        NONE if s is None else interval(s.problems),
        NONE if a is None else f"{100 * a.difference:+.1f} (p {_p(a.p)})",
        NONE if s is None else f"{s.median_tokens:g}",
        percent(None if s is None else s.at_cap.value),
    ]


def markdown(rows: Sequence[ComparisonRow]) -> str:
    """Returns the table, followed by the notes of its rows."""
    settings = dict.fromkeys(setting(row.summary.config) for row in rows if row.summary is not None)
    return "\n\n".join([*settings, table.markdown(compared(rows))]) + "\n"


def to_json(rows: Sequence[ComparisonRow]) -> str:
    """Returns a JSON list of objects with the fields of ComparisonRow.

    Shares include their value and 95 % interval.
    """
    return json.dumps([to_dict(row) for row in rows], indent=1, allow_nan=False) + "\n"


def to_dict(row: ComparisonRow) -> dict[str, Any]:
    """Returns the fields of a row as JSON values, with the rates of its summary."""
    return {**asdict(row), "summary": None if row.summary is None else row.summary.to_dict()}


def _sparsity(row: ComparisonRow) -> float | None:
    """Actual sparsity of the answers, or of the traces if there are no answers."""
    return _traced(row) if row.summary is None else row.summary.counters.actual_sparsity


def _traced(row: ComparisonRow) -> float | None:
    """Actual sparsity of the traces, at which the divergence was measured."""
    return (
        None
        if row.divergence is None
        else 1 - row.divergence["weights_kept"] / row.divergence["weights_dense"]
    )


def _elsewhere(row: ComparisonRow) -> str:
    """Text with the sparsity of the divergence; empty if it is close to that of the row."""
    shown, own = _sparsity(row), _traced(row)
    return f" (at {percent(own)})" if own is not None and (shown is None or abs(shown - own) > CLOSE) else ""


def _share(summary: Summary) -> str:
    share, missing = summary.problems, f", {len(summary.missing)} batches missing" if summary.missing else ""
    return f"{percent(share.value)} ({share.right}/{share.total}{missing})" if share.total else NOT_GRADED


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
