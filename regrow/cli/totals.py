"""What a run of several batches did: their counters, summed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self, final

from regrow.counters import Counters
from regrow.report import Counted, Report, why_dense


@final
@dataclass(frozen=True)
class Totals:
    report: Report  # of all batches, as of one

    decode_steps = Counted[int]()
    sparse_steps = Counted[int]()
    samples = Counted[int]()
    prefill_seconds = Counted[float]()
    decode_seconds = Counted[float]()
    decode_tokens_per_second = Counted["float | None"]()

    @classmethod
    def of(cls, reports: Sequence[Report]) -> Self:
        """Of at least one batch."""
        first = reports[0]
        return cls(
            Report(
                first.method, first.target_sparsity, sum((report.counters for report in reports), Counters())
            )
        )

    @property
    def counters(self) -> Counters:
        return self.report.counters

    @property
    def method(self) -> dict[str, Any]:
        return self.report.method

    @property
    def target_sparsity(self) -> float:
        return self.report.target_sparsity

    @property
    def note(self) -> str | None:
        """Why a run that should have pruned never did; None where it did."""
        return why_dense(self.method, self.target_sparsity, self.counters)

    @property
    def actual_sparsity(self) -> float:
        return self.report.actual_sparsity

    @property
    def sparse_share(self) -> float:
        return self.report.sparse_share

    @property
    def tokens(self) -> int:
        """New ones, EOS included."""
        return self.counters.new_tokens

    @property
    def finish_reasons(self) -> dict[str, int]:
        return dict(Counter(self.counters.finish_reasons))

    def to_dict(self) -> dict[str, Any]:
        """As a report, but tokens and finish reasons are counted, not listed."""
        counted = {"samples": self.samples, "tokens": self.tokens, "finish_reasons": self.finish_reasons}
        return self.report.to_dict() | counted | {"decode_tokens_per_second": self.decode_tokens_per_second}
