"""What a record file says, as numbers. Counters are summed over its batches; a ratio is taken once, of the sums."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, sqrt
from statistics import NormalDist, median
from typing import final

from regrow.records import COUNTERS, Graded, RunConfig


@final
@dataclass(frozen=True)
class Share:
    """`right` of `total`."""

    right: int
    total: int
    inflation: float = 1.0  # at least 1: the variance of the share, of that which independent trials would have

    @property
    def value(self) -> float | None:
        return self.right / self.total if self.total else None

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Wilson's score interval for as many trials as would be independent; (0, 1) where there is nothing to go by."""
        if not self.total:
            return 0.0, 1.0
        z = NormalDist().inv_cdf((1 + confidence) / 2)
        share, weight = self.right / self.total, z * z * self.inflation / self.total
        centre = (share + weight / 2) / (1 + weight)
        half = sqrt(weight * (share * (1 - share) + weight / 4)) / (1 + weight)
        # Rounding must not put an end on the wrong side of the share, nor beyond what a share can be.
        return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


@final
@dataclass(frozen=True)
class SiteSparsity:
    """Linears that share an input: what did not take part in decode steps, as a share of their weights."""

    sparsity: float
    layers: tuple[float, ...]


@final
@dataclass(frozen=True)
class Summary:
    """One record file. Shares and rates are None where nothing was counted."""

    config: RunConfig
    versions: tuple[Mapping[str, str], ...]  # one, unless a run was taken up again with others
    missing: tuple[int, ...]  # batches not recorded; everything below is of the others
    problems: Share
    prompts: Share  # every problem right
    families: Mapping[str, Share]  # by name
    at_cap: Share  # outputs that ended at max_new_tokens
    median_tokens: float  # new tokens of a row, its EOS included
    p90_tokens: int  # nine rows of ten have no more
    tokens: int
    decode_steps: int
    sparse_share: float | None  # of decode steps
    actual_sparsity: float | None  # of the weights at the sites that the method prunes, over decode steps
    sites: Mapping[str, SiteSparsity]  # by name: qkv, o, gate_up, down
    bytes_per_token: float | None  # weights of the blocks that decode steps had to read
    ffn_bytes_per_token: float | None  # FFN weights read by decode steps
    refresh_bytes_per_token: float | None  # moved by mask refreshes, on top
    ffn_bytes_per_step: float | None
    decode_tokens_per_second: float | None  # all rows; the first token of a row is the prompt's


def summarize(graded: Graded) -> Summary:
    total = _totals(graded)
    lengths = [len(row) for record in graded.records for row in record.tokens]
    ends = [reason for record in graded.records for reason in record.finish_reasons]
    tokens, steps = sum(lengths), total["decode_steps"]
    computed = _ratio(total["weights_kept"], total["weights_dense"])
    return Summary(
        config=graded.config,
        versions=_versions(graded),
        missing=graded.missing,
        problems=_problems(graded),
        prompts=Share(sum(grade.right == grade.total for grade in graded.grades), len(graded.grades)),
        families=_families(graded),
        at_cap=Share(ends.count("length"), len(ends)),
        median_tokens=float(median(lengths)),
        p90_tokens=sorted(lengths)[ceil(0.9 * len(lengths)) - 1],
        tokens=tokens,
        decode_steps=int(steps),
        sparse_share=_ratio(total["sparse_steps"], steps),
        actual_sparsity=None if computed is None else 1 - computed,
        sites=_sites(graded),
        bytes_per_token=_ratio(total["bytes_read"], tokens),
        ffn_bytes_per_token=_ratio(total["ffn_bytes_read"], tokens),
        refresh_bytes_per_token=_ratio(total["refresh_bytes"], tokens),
        ffn_bytes_per_step=_ratio(total["ffn_bytes_read"], steps),
        decode_tokens_per_second=_ratio(tokens - len(lengths), total["decode_seconds"]),
    )


def _problems(graded: Graded) -> Share:
    """Batches are the independent trials: problems share a prompt, and prompts a mask. Their spread gives the inflation (linearisation of
    a ratio: batches hold different numbers of problems)."""
    counts = [(sum(grade.right for grade in batch), sum(grade.total for grade in batch)) for batch in graded.batches]
    right, total = (sum(column) for column in zip(*counts, strict=True))
    independent = right * (total - right) / total if total else 0.0
    if len(counts) < 2 or not independent:
        return Share(right, total)
    spread = sum((r - right / total * t) ** 2 for r, t in counts) * len(counts) / (len(counts) - 1)
    return Share(right, total, max(1.0, spread / independent))


def _totals(graded: Graded) -> dict[str, float]:
    return {name: sum(record.counters[name] for record in graded.records) for name in COUNTERS}


def _sites(graded: Graded) -> dict[str, SiteSparsity]:
    """Of those sites that every record counts; none where there was no decode step."""
    counted = [record.counters.get("sites", {}) for record in graded.records]
    found = {}
    for site in counted[0]:
        kept, dense = ([sum(layer) for layer in zip(*(sites[site][name] for sites in counted), strict=True)] for name in ("kept", "dense"))
        if all(dense):
            layers = tuple(1 - k / d for k, d in zip(kept, dense, strict=True))
            found[site] = SiteSparsity(1 - sum(kept) / sum(dense), layers)
    return found


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _families(graded: Graded) -> dict[str, Share]:
    marks = [mark for grade in graded.grades for mark in grade.marks]
    asked, right = Counter(mark.family for mark in marks), Counter(mark.family for mark in marks if mark.right)
    return {family: Share(right[family], asked[family]) for family in sorted(asked)}


def _versions(graded: Graded) -> tuple[Mapping[str, str], ...]:
    different: list[Mapping[str, str]] = []
    for record in graded.records:
        if record.versions not in different:
            different.append(record.versions)
    return tuple(different)
