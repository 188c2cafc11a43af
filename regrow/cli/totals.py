"""The report of a run over all its batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self, final

from regrow.counters import Counters
from regrow.report import Report, why_dense


@final
@dataclass(frozen=True)
class Totals:
    """The sum of the reports of all batches of a run."""

    report: Report  # the counters of all batches, added

    @classmethod
    def of(cls, reports: Sequence[Report]) -> Self:
        """Adds the reports of one or more batches."""
        first = reports[0]
        return cls(
            Report(
                first.method, first.target_sparsity, sum((report.counters for report in reports), Counters())
            )
        )

    @property
    def note(self) -> str | None:
        """Why a run that should have pruned never did. None if it did prune."""
        report = self.report
        return why_dense(report.method, report.target_sparsity, report.counters)

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as JSON values, with tokens and finish reasons counted instead of listed."""
        counters = self.report.counters
        return self.report.to_dict() | {
            "samples": counters.samples,
            "tokens": counters.new_tokens,
            "finish_reasons": dict(Counter(counters.finish_reasons)),
            "decode_tokens_per_second": counters.decode_tokens_per_second,
        }
