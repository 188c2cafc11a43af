"""Times whole generations, with every draft and without, in turn."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, final

import torch
from torch import Tensor
from transformers import PreTrainedModel

from regrow.adapter.patch import Patch
from regrow.bench.bench_result import Spread
from regrow.bench.clock import Clock
from regrow.bench.lossless.result import LosslessRow
from regrow.decoding.lossless import Lossless
from regrow.decoding.window import Costs
from regrow.hosts.engine import Engine
from regrow.method.base import Method
from regrow.method.dense import Dense

DENSE: Final = "dense"
WARM: Final = 4  # new tokens of a run that prepares a measured one
MEASURING: Final = 24  # the same, of a run that also measures costs
MOST_WARM: Final = 12  # runs of so many tokens in which costs have to be measured


@final
@dataclass(frozen=True)
class Entrant:
    """A draft to time, or dense decoding."""

    label: str
    lossless: Lossless | None = None
    method: Method = field(default_factory=Dense)
    agreement: float | None = None  # see LosslessRow


@final
@dataclass(frozen=True)
class Prompts:
    """One batch of prompts, and how many tokens may follow."""

    ids: Tensor  # [B, P]
    mask: Tensor | None  # [B, P]
    new: int

    def __len__(self) -> int:
        return len(self.ids)


@final
@dataclass
class _Runs:
    """What the measured runs of one entrant gave."""

    speed: list[float] = field(default_factory=list)  # tokens a second
    seconds: list[float] = field(default_factory=list)  # for a token
    equal: list[float] = field(default_factory=list)
    drafted: int = 0
    kept: int = 0
    passes: int = 0
    tokens: int = 0
    costs: dict[str, Any] = field(default_factory=dict)


def measure(
    name: str,
    model: PreTrainedModel,
    entrants: Sequence[Entrant],
    batches: Sequence[Prompts],
    working: Callable[[str], None],
    *,
    eos: bool,
) -> tuple[list[LosslessRow], list[Tensor]]:
    """Runs every entrant once for each batch, in turn. All batches have the same number of rows.

    The first entrant is dense decoding, to which the others are compared. Each entrant is warmed up before
    it is timed, and measures its costs with the first batch. With `eos`, rows may end before their limit.
    Returns the results, and the new tokens [B, N] of dense decoding for each batch.
    """
    found = {entrant.label: _Runs() for entrant in entrants}
    answers: list[Tensor] = []
    with Patch() as patch:
        if not eos:
            patch.replace(model.generation_config, "eos_token_id", None)
        for number, prompts in enumerate(batches, 1):
            dense: Tensor | None = None
            for method in dict.fromkeys(entrant.method for entrant in entrants):
                with Engine(model, method, owns_model=True) as engine:
                    for entrant in [one for one in entrants if one.method == method]:
                        working(f"batch {len(prompts)}, {entrant.label}, run {number} of {len(batches)}")
                        tokens = _run(engine, entrant, prompts, found[entrant.label], dense)
                        if dense is None:
                            dense = tokens
                            answers.append(tokens)
    first = found[entrants[0].label]
    return [_row(name, entrant, found[entrant.label], first, batches) for entrant in entrants], answers


def _run(engine: Engine, entrant: Entrant, prompts: Prompts, into: _Runs, dense: Tensor | None) -> Tensor:
    """Runs one entrant once. Returns the new tokens [B, N], and compares them with the dense ones."""
    lossless = entrant.lossless
    options: dict[str, Any] = {"do_sample": False, "pad_token_id": 0}
    if lossless is not None and into.costs:
        lossless = replace(lossless, costs=Costs.from_dict(into.costs))
    known = lossless is None or lossless.window is not None or bool(into.costs)
    for _ in range(MOST_WARM):
        tokens = WARM if known else MEASURING
        done = engine.generate(
            prompts.ids, prompts.mask, max_new_tokens=tokens, lossless=lossless or False, **options
        )
        into.costs = done.report.draft_costs
        if known or into.costs:
            break
    clock = Clock(prompts.ids.device)
    done = engine.generate(
        prompts.ids,
        prompts.mask,
        max_new_tokens=prompts.new,
        lossless=lossless or False,
        mark=clock.mark,
        **options,
    )
    seconds = sum(span for phase, span in clock.spans() if phase != "prompt")
    counters = done.report.counters
    tokens = counters.new_tokens - counters.samples
    into.costs = done.report.draft_costs
    into.speed.append(tokens / seconds)
    into.seconds.append(seconds / tokens)
    into.drafted += counters.drafted
    into.kept += counters.drafts_kept
    into.passes += counters.decode_steps
    into.tokens += tokens
    ours = done.sequences[:, prompts.ids.shape[1] :]
    into.equal.append(1.0 if dense is None else equal_share(ours, dense, counters.tokens))
    return ours


def equal_share(ours: Tensor, dense: Tensor, lengths: Sequence[int]) -> float:
    """Returns the share of `ours` [B, N], without what follows `lengths` [B], that equals `dense`."""
    width = min(ours.shape[1], dense.shape[1])
    same = ours[:, :width] == dense[:, :width]
    real = torch.arange(width, device=ours.device) < torch.tensor(lengths, device=ours.device)[:, None]
    return int((same & real).sum()) / sum(lengths)


def _row(name: str, entrant: Entrant, runs: _Runs, dense: _Runs, batches: Sequence[Prompts]) -> LosslessRow:
    return LosslessRow(
        model=name,
        label=entrant.label,
        rows=len(batches[0]),
        prompt=max(prompts.ids.shape[1] for prompts in batches),
        new=batches[0].new,
        tokens_per_second=Spread.of(runs.speed),
        ratio=Spread.of([one / other for one, other in zip(dense.seconds, runs.seconds, strict=True)]),
        equal=statistics.mean(runs.equal),
        agreement=entrant.agreement,
        drafted=runs.drafted,
        kept=runs.kept,
        passes=runs.passes,
        tokens=runs.tokens,
        costs=runs.costs,
    )
