"""Reports: what a batch did, computed from its counters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar, final

from regrow.counters import Counters, SiteCount
from regrow.format import NONE, count, duration, parameters, percent, rate

T = TypeVar("T")
MIN_SHOWN_BYTES: Final = 10**7  # a summary shows memory beside the model's weights from this size on
MIN_TIMED_STEPS: Final = 20  # the times of fewer decode steps are not compared
ENDS = {"eos": "ended by itself", "length": "cut at the limit", "stop": "stopped"}


@final
class Counted(Generic[T]):
    """Descriptor that reads the attribute of the same name from `counters`."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, holder: Any, owner: type) -> T:
        found: T = getattr(holder.counters, self._name)
        return found


@final
@dataclass(frozen=True)
class Report:
    """The report of one batch. `print(report)` shows it in a few lines; `to_dict()` is for programs.

    Besides `actual_sparsity` and `sparse_share`, a report has the counters of its batch.

    Attributes:
        method: Name and parameters of the method.
        target_sparsity: The sparsity asked for, in [0, 1).
        decode_steps: Decode steps, `sparse_steps` of which were sparse.
        weights_kept: Weight elements that decode steps used, at the sites that the method prunes;
            `weights_dense` are those of a dense run, and `sites` has both by site and layer.
        bytes_read: Bytes of block weights that decode steps read, `ffn_bytes_read` of which in FFNs. Weights
            that were rounded to 4 bits count at their stored size, and steps that only draft do not count.
        updates: Masks selected. `turnover` has, for each pruned layer, the mean share of neurons that a new
            mask replaces, and `refresh_bytes` the bytes that this moved.
        tokens: New tokens of each row, its EOS included. `finish_reasons` has "eos", "length" or "stop".
        prefill_seconds: Seconds of the prompt. `decode_seconds` are those of all decode steps,
            `sparse_seconds` of the sparse ones and `refresh_seconds` of new masks.
        drafted: Guessed tokens that lossless decoding has checked, `drafts_kept` of which were right.
            `sample_passes` are its dense passes, summed over the samples that took part in each.
            `draft_costs` are the seconds of its passes, which choose its windows (`regrow.Costs`).
        state_bytes: Bytes that the method and the decode loop took beside the model's weights.
    """

    method: dict[str, Any]
    target_sparsity: float
    counters: Counters

    decode_steps = Counted[int]()
    sparse_steps = Counted[int]()
    weights_kept = Counted[int]()
    weights_dense = Counted[int]()
    sites = Counted[dict[str, SiteCount]]()
    bytes_read = Counted[int]()
    ffn_bytes_read = Counted[int]()
    updates = Counted[int]()
    turnover = Counted[list[float]]()
    refresh_bytes = Counted[int]()
    tokens = Counted[list[int]]()
    finish_reasons = Counted[list[str]]()
    prefill_seconds = Counted[float]()
    decode_seconds = Counted[float]()
    state_bytes = Counted[int]()
    sparse_seconds = Counted[float]()
    refresh_seconds = Counted[float]()
    drafted = Counted[int]()
    drafts_kept = Counted[int]()
    sample_passes = Counted[int]()
    draft_costs = Counted[dict[str, Any]]()

    @property
    def actual_sparsity(self) -> float:
        """1 - `weights_kept` / `weights_dense`, or 0 if there was no decode step."""
        return self.counters.actual_sparsity or 0.0

    @property
    def sparse_share(self) -> float:
        """Share of decode steps that were sparse, or 0 if there was no decode step."""
        return self.counters.sparse_share or 0.0

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as JSON values: the method, its target, the two shares and all counters."""
        ratios = {"actual_sparsity": self.actual_sparsity, "sparse_share": self.sparse_share}
        return {
            "method": self.method,
            "target_sparsity": self.target_sparsity,
            **ratios,
            **self.counters.to_dict(),
        }

    def __str__(self) -> str:
        lines = summary(self.method, self.target_sparsity, self.counters)
        width = max(len(name) for name, _ in lines)
        return "\n".join(f"{name:{width}}  {value}" for name, value in lines)


def summary(method: Mapping[str, Any], target: float, counters: Counters) -> list[tuple[str, str]]:
    """Returns the lines of a summary as (name, text)."""
    settings, c = dict(method), counters
    name = settings.pop("name")
    ends = ", ".join(
        f"{count} {ENDS.get(reason, reason)}" for reason, count in sorted(Counter(c.finish_reasons).items())
    )
    pruned = (
        f"{percent(c.actual_sparsity)} of the weights it prunes, over all decode steps "
        f"(target {percent(target)})"
    )
    why, not_worth = why_dense(settings, target, c), why_slow(c)
    return [
        ("method", f"{name}: {parameters(settings)}" if settings else name),
        ("samples", f"{c.samples}: {ends or NONE}"),
        ("actual sparsity", pruned),
        ("sparse steps", f"{c.sparse_steps} of {c.decode_steps} ({percent(c.sparse_share)})"),
        *([("drafts kept", _drafts(c))] if c.drafted else []),
        ("time", f"prompts {duration(c.prefill_seconds)}, decoding {duration(c.decode_seconds)}"),
        ("speed", f"{rate(c.decode_tokens_per_second)} tokens/s, all samples together"),
        *([("steps", _steps(c, *c.step_seconds))] if c.step_seconds else []),
        *(
            [("memory", f"{c.state_bytes / 1e9:.2f} GB beside the model's weights")]
            if c.state_bytes >= MIN_SHOWN_BYTES
            else []
        ),
        *([("note", why)] if why else []),
        *([("note", not_worth)] if not_worth else []),
    ]


def _drafts(counters: Counters) -> str:
    kept = (
        f"{counters.drafts_kept} of {counters.drafted} ({percent(counters.drafts_kept / counters.drafted)})"
    )
    tokens = counters.tokens_per_pass
    return f"{kept}; a dense pass gave a sample {tokens:.1f} tokens on average" if tokens else kept


def _steps(counters: Counters, sparse: float, dense: float, average: float) -> str:
    masks = 1e3 * counters.refresh_seconds / counters.decode_steps
    return (
        f"sparse {1e3 * sparse:.1f} ms, dense {1e3 * dense:.1f} ms, on average {1e3 * average:.1f} ms "
        f"with {masks:.1f} ms for new masks"
    )


def why_slow(counters: Counters) -> str | None:
    """Returns a note if pruning took more time than it saved. None if it did not, or was not measured."""
    if counters.step_seconds is None or counters.decode_steps < MIN_TIMED_STEPS:
        return None
    _, dense, average = counters.step_seconds
    if average < dense:
        return None
    return (
        "pruning costs more than it saves at this batch size: a step with its share of new masks "
        f"took {1e3 * average:.1f} ms on average, a dense one {1e3 * dense:.1f} ms"
    )


def why_dense(params: Mapping[str, Any], target: float, counters: Counters) -> str | None:
    """Returns why a run never pruned. None if it did prune, or was meant to be dense, as if lossless."""
    if not target or not counters.all_dense or counters.sample_passes:
        return None
    if not counters.decode_steps:
        return "there was no decode step, because no answer has a second token; nothing was pruned"
    if params.get("explore_steps", 0) >= params.get("period", 1):
        return "every decode step was dense: a period of nothing but exploration steps prunes none"
    init = params.get("init_steps", 0)
    if counters.sparse_steps or not isinstance(init, int) or not init:
        return "no decode step left any weight out"
    return (
        f"every decode step was dense: pruning begins after {init} of them (init_steps), "
        f"and the longest answer has {count(max(counters.tokens, default=0), 'token')}"
    )
