"""Summary of a record file. Counters are summed over its batches, and ratios are taken of the sums."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from math import ceil, sqrt
from statistics import NormalDist, median
from typing import Any, Final, final

from regrow.counters import Counters
from regrow.format import count
from regrow.records import Grade, Graded
from regrow.report import why_dense
from regrow.run_config import RunConfig


@final
@dataclass(frozen=True)
class Share:
    """A share: `right` out of `total`."""

    right: int
    total: int
    inflation: float = 1.0  # variance of the share / variance with independent trials, at least 1

    @property
    def value(self) -> float | None:
        """The share as a number; None if `total` is 0."""
        return self.right / self.total if self.total else None

    def interval(self, confidence: float = 0.95) -> tuple[float, float] | None:
        """Wilson's score interval for `total / inflation` independent trials; None if `total` is 0."""
        if not self.total:
            return None
        z = NormalDist().inv_cdf((1 + confidence) / 2)
        share, weight = self.right / self.total, z * z * self.inflation / self.total
        centre = (share + weight / 2) / (1 + weight)
        half = sqrt(weight * (share * (1 - share) + weight / 4)) / (1 + weight)
        # Rounding must not move an end past the share, or out of [0, 1].
        return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields, the value and the 95 % interval as JSON values."""
        interval = self.interval()
        return {**asdict(self), "value": self.value, "interval_95": interval and list(interval)}


MANY_CUT: Final = 0.2  # share of answers at the token limit from which on a table says so


@final
@dataclass(frozen=True)
class Summary:
    """Numbers of one record file. Shares and rates are None if nothing was counted."""

    config: RunConfig
    versions: tuple[Mapping[str, str], ...]  # one entry, unless a run was resumed with other versions
    missing: tuple[int, ...]  # batches that are not recorded; the fields below cover the others
    problems: Share  # by the strict score
    paper: Share  # by the lenient score, which stands for the evaluation framework of the paper
    prompts: Share  # prompts with every problem right, of those that ask any
    families: Mapping[str, Share]  # right problems of each family
    timed_out: int  # answers whose grading did not finish in time, and which count as wrong
    at_cap: Share  # rows that ended at max_new_tokens
    median_tokens: float  # new tokens of a row, including its EOS
    p90_tokens: int  # nine rows of ten have at most so many new tokens
    counters: Counters  # the sum of all batches

    @property
    def notes(self) -> list[str]:
        """Sentences, without a full stop, that a reader must know to read the numbers right."""
        found = []
        if why := why_dense(self.config.params, target(self.config), self.counters):
            found.append(why)
        if self.at_cap.right > MANY_CUT * self.at_cap.total:
            found.append(
                f"{self.at_cap.right} of {self.at_cap.total} answers were cut at the limit of "
                f"{count(self.config.max_new_tokens, 'token')} and count as they stand"
            )
        if self.paper.right != self.problems.right:
            found.append(f"{self.paper.right} of {self.paper.total} are right by the lenient score (paper)")
        if self.timed_out:
            how = "counts as wrong" if self.timed_out == 1 else "count as wrong"
            found.append(f"{count(self.timed_out, 'answer')} could not be graded in time and {how}")
        return found

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON values: rates instead of counters, and shares with their value and 95 % interval."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        del found["counters"]
        shares = {name: getattr(self, name).to_dict() for name in ("problems", "paper", "prompts", "at_cap")}
        families = {name: share.to_dict() for name, share in self.families.items()}
        return found | {"config": self.config.to_dict()} | shares | {"families": families} | self._rates()

    def _rates(self) -> dict[str, Any]:
        c = self.counters
        sites = {
            name: {"sparsity": site.sparsity, "layers": site.layers}
            for name, site in c.sites.items()
            if site.counted
        }
        return {
            "tokens": c.new_tokens,
            "decode_steps": int(c.decode_steps),
            "sparse_share": c.sparse_share,
            "actual_sparsity": c.actual_sparsity,
            "sites": sites,
            "bytes_per_token": c.bytes_per_token,
            "ffn_bytes_per_token": c.ffn_bytes_per_token,
            "refresh_bytes_per_token": c.refresh_bytes_per_token,
            "ffn_bytes_per_step": c.ffn_bytes_per_step,
            "decode_tokens_per_second": c.decode_tokens_per_second,
        }


def summarize(graded: Graded) -> Summary:
    """Summarises a graded record file."""
    total = sum((record.counted for record in graded.records), Counters())
    return Summary(
        config=graded.config,
        versions=_versions(graded),
        missing=graded.missing,
        problems=_problems(graded, strict=True),
        paper=_problems(graded, strict=False),
        timed_out=sum(grade.timed_out for grade in graded.grades),
        prompts=_prompts(graded),
        families=_families(graded),
        at_cap=Share(total.finish_reasons.count("length"), len(total.finish_reasons)),
        median_tokens=float(median(total.tokens)),
        p90_tokens=sorted(total.tokens)[ceil(0.9 * len(total.tokens)) - 1],
        counters=total,
    )


def _problems(graded: Graded, *, strict: bool) -> Share:
    """Share of right problems. Its inflation comes from the spread between batches.

    Batches are the independent trials, because problems share a prompt, samples answer the same prompt, and
    prompts share a mask. A single batch has no spread, and that between its prompts stands in for it.
    """
    counts = _counts(graded.batches if len(graded.batches) > 1 else graded.prompts, strict)
    right, total = sum(count[0] for count in counts), sum(count[1] for count in counts)
    return Share(right, total, _inflation(counts, right, total))


def _prompts(graded: Graded) -> Share:
    """Share of prompts with every problem right. Answers that are not graded do not count."""
    asking = [grade for grade in graded.grades if grade.total]
    return Share(sum(grade.right == grade.total for grade in asking), len(asking))


def _counts(groups: Sequence[Sequence[Grade]], strict: bool) -> list[tuple[int, int]]:
    """Returns the right problems and all problems of each group."""
    return [
        (sum(grade.right if strict else grade.paper for grade in group), sum(grade.total for grade in group))
        for group in groups
    ]


def _inflation(counts: Sequence[tuple[int, int]], right: int, total: int) -> float:
    """Returns the variance of the share of right problems over that of independent problems, at least 1.

    The variance is that of a linearised ratio, because groups hold different numbers of problems.
    """
    independent = right * (total - right) / total if total else 0.0
    if len(counts) < 2 or not independent:
        return 1.0
    spread = sum((r - right / total * t) ** 2 for r, t in counts) * len(counts) / (len(counts) - 1)
    return max(1.0, spread / independent)


def target(config: RunConfig) -> float:
    """Target sparsity of the run; 0 for a method without one."""
    found = config.params.get("sparsity", 0.0)
    return float(found) if isinstance(found, int | float) else 0.0


def _families(graded: Graded) -> dict[str, Share]:
    marks = [mark for grade in graded.grades for mark in grade.marks]
    asked, right = (
        Counter(mark.family for mark in marks),
        Counter(mark.family for mark in marks if mark.right),
    )
    return {family: Share(right[family], asked[family]) for family in sorted(asked)}


def _versions(graded: Graded) -> tuple[Mapping[str, str], ...]:
    different: list[Mapping[str, str]] = []
    for record in graded.records:
        if record.versions not in different:
            different.append(record.versions)
    return tuple(different)
