"""What a run did: the counters of its batches, summed; a ratio is taken once, of the sums."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self, final

from regrow.report import Report, SiteCount


@final
@dataclass(frozen=True)
class Totals:
    method: dict[str, Any]
    target_sparsity: float
    actual_sparsity: float  # 1 - kept / dense weights of the sites that the method prunes, over decode steps
    decode_steps: int
    sparse_steps: int
    sparse_share: float
    weights_kept: int
    weights_dense: int
    sites: dict[str, SiteCount]
    bytes_read: int
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
        kept, dense = sum(r.weights_kept for r in reports), sum(r.weights_dense for r in reports)
        tokens, samples = sum(sum(r.tokens) for r in reports), sum(len(r.tokens) for r in reports)
        seconds = sum(r.decode_seconds for r in reports)
        return cls(
            method=first.method,
            target_sparsity=first.target_sparsity,
            actual_sparsity=1 - kept / dense if dense else 0.0,
            decode_steps=steps,
            sparse_steps=sparse,
            sparse_share=sparse / steps if steps else 0.0,
            weights_kept=kept,
            weights_dense=dense,
            sites=_sites(reports),
            bytes_read=sum(r.bytes_read for r in reports),
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


def _sites(reports: Sequence[Report]) -> dict[str, SiteCount]:
    def total(rows: Iterable[list[int]]) -> list[int]:
        return [sum(layer) for layer in zip(*rows, strict=True)]

    return {
        site: SiteCount(total(r.sites[site].kept for r in reports), total(r.sites[site].dense for r in reports))
        for site in reports[0].sites
    }


def _turnover(reports: Sequence[Report]) -> list[float]:
    """The first selection of a batch replaces nothing, so a batch counts with one update less."""
    weights = [max(0, report.updates - 1) for report in reports]
    layers = zip(*(report.turnover for report in reports), strict=True)
    return [sum(w * t for w, t in zip(weights, layer, strict=True)) / max(1, sum(weights)) for layer in layers]
