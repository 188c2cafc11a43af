"""What a run did: the counters of its batches, summed; a ratio is taken once, of the sums."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self, final

from regrow.report import Report


@final
@dataclass(frozen=True)
class Totals:
    method: dict[str, Any]
    target_sparsity: float
    actual_sparsity: float  # 1 - computed / dense neurons, over decode steps and layers
    decode_steps: int
    sparse_steps: int
    sparse_share: float
    neurons_computed: int
    neurons_dense: int
    ffn_bytes_read: int
    updates: int
    turnover: list[float]  # a layer's mean over the mask updates of all batches
    refresh_bytes: int
    samples: int
    tokens: int  # new ones, EOS included
    finish_reasons: dict[str, int]
    prefill_seconds: float
    decode_seconds: float
    decode_tokens_per_second: float | None  # the first token of a sample is the prompt's; None where nothing was decoded
    state_bytes: int

    @classmethod
    def of(cls, reports: Sequence[Report]) -> Self:
        """Of at least one batch."""
        first = reports[0]
        steps, sparse = sum(r.decode_steps for r in reports), sum(r.sparse_steps for r in reports)
        computed, dense = sum(r.neurons_computed for r in reports), sum(r.neurons_dense for r in reports)
        tokens, samples = sum(sum(r.tokens) for r in reports), sum(len(r.tokens) for r in reports)
        seconds = sum(r.decode_seconds for r in reports)
        return cls(
            method=first.method,
            target_sparsity=first.target_sparsity,
            actual_sparsity=1 - computed / dense if dense else 0.0,
            decode_steps=steps,
            sparse_steps=sparse,
            sparse_share=sparse / steps if steps else 0.0,
            neurons_computed=computed,
            neurons_dense=dense,
            ffn_bytes_read=sum(r.ffn_bytes_read for r in reports),
            updates=sum(r.updates for r in reports),
            turnover=_turnover(reports),
            refresh_bytes=sum(r.refresh_bytes for r in reports),
            samples=samples,
            tokens=tokens,
            finish_reasons=dict(Counter(reason for r in reports for reason in r.finish_reasons)),
            prefill_seconds=sum(r.prefill_seconds for r in reports),
            decode_seconds=seconds,
            decode_tokens_per_second=(tokens - samples) / seconds if tokens > samples and seconds > 0 else None,
            state_bytes=max(r.state_bytes for r in reports),
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def _turnover(reports: Sequence[Report]) -> list[float]:
    """The first selection of a batch replaces nothing, so a batch counts with one update less."""
    weights = [max(0, report.updates - 1) for report in reports]
    layers = zip(*(report.turnover for report in reports), strict=True)
    return [sum(w * t for w, t in zip(weights, layer, strict=True)) / max(1, sum(weights)) for layer in layers]
