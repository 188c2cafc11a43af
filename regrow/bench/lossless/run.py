"""Runs the benchmark of lossless decoding on random weights or on a model, and keeps the results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, final

import torch
from transformers import PreTrainedModel

from regrow.bench.lossless.replayed import Replayed, repeats_tokens
from regrow.bench.lossless.result import LosslessResult, LosslessRow
from regrow.bench.lossless.rounds import DENSE, Entrant, Prompts, measure
from regrow.bench.machine import device_name
from regrow.bench.shapes import shape
from regrow.decoding.drafts.guesser import Draft
from regrow.decoding.drafts.masked import Masked
from regrow.decoding.drafts.names import DRAFTS
from regrow.decoding.lossless import Lossless
from regrow.errors import require_one_of
from regrow.method.batchwise_adaptive import BatchwiseAdaptive
from regrow.models import DTYPES
from regrow.versions import versions


@final
@dataclass(frozen=True)
class LosslessPlan:
    """What to measure: drafts at every batch size, on random weights of several shapes."""

    shapes: Sequence[str]
    agreements: Mapping[str, float]  # draft -> chance that one of its tokens is right
    batch_sizes: Sequence[int]
    prompt: int
    new: int
    repeats: int
    dtype: str
    device: torch.device

    def __post_init__(self) -> None:
        """Raises UsageError for an unknown shape, draft or dtype."""
        for name in self.shapes:
            shape(name)
        for name in self.agreements:
            require_one_of(DRAFTS, draft=name)
        require_one_of(DTYPES, dtype=self.dtype)


class Listener(Protocol):
    """Callbacks of a running benchmark."""

    def begin(self, result: LosslessResult) -> None:
        """Called first."""

    def working(self, on: str, what: str) -> None:
        """Called when the work `what` begins on the model `on`."""

    def rows(self, rows: Sequence[LosslessRow]) -> None:
        """Called when a batch size has been measured and its results are kept."""

    def end(self, result: LosslessResult) -> None:
        """Called last, with all results."""


def entrants(drafts: Mapping[str, Draft], agreements: Mapping[str, float] | None = None) -> list[Entrant]:
    """Returns dense decoding and the drafts, those of a mask with Batch-wise Adaptive Pruning at 50 %.

    With `agreements`, tokens of the drafts are right with these chances, by label.
    """
    found = [Entrant(DENSE)]
    for label, draft in drafts.items():
        chance = None if agreements is None else agreements[label]
        chosen = draft if chance is None else Replayed(draft, chance)
        entrant = Entrant(label, Lossless(chosen), agreement=chance)
        if isinstance(draft, Masked):
            entrant = Entrant(label, Lossless(chosen), BatchwiseAdaptive(init_steps=0), chance)
        found.append(entrant)
    return found


def run(plan: LosslessPlan, listener: Listener, keep: Callable[[LosslessResult], None]) -> LosslessResult:
    """Runs the plan, and calls `keep` with the results so far after every batch size."""
    result = started(
        plan.device, {"dtype": plan.dtype, "repeats": plan.repeats, "agreements": dict(plan.agreements)}
    )
    listener.begin(result)
    chosen = {name: DRAFTS[name] for name in plan.agreements}
    for name in plan.shapes:
        listener.working(name, "making weights")
        model = _model(name, plan)
        generator = torch.Generator().manual_seed(0)
        for rows in plan.batch_sizes:
            ids = torch.randint(1, model.config.vocab_size, (rows, plan.prompt), generator=generator)
            batches = [Prompts(ids.to(plan.device), None, plan.new)] * plan.repeats
            working = partial(listener.working, name)
            found, _ = measure(name, model, entrants(chosen, plan.agreements), batches, working, eos=False)
            result.rows.extend(found)
            keep(result)
            listener.rows(found)
    listener.end(result)
    return result


def started(device: torch.device, settings: dict[str, object]) -> LosslessResult:
    """Returns a result without rows."""
    return LosslessResult({**versions(), "device": device_name(device)}, settings)


def _model(name: str, plan: LosslessPlan) -> PreTrainedModel:
    dtype = torch.bfloat16 if plan.dtype == "auto" else getattr(torch, plan.dtype)
    model = shape(name).build(dtype, plan.device)
    repeats_tokens(model)
    return model
