from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from regrow.method.base import NeuronMethod
from regrow.selection.budget import Sparsity, parse_sparsity
from regrow.selection.index_set import IndexSet
from regrow.selection.schedule import Schedule, unless_zero


@final
@dataclass(frozen=True)
class BatchwiseAdaptive(NeuronMethod):
    """Batch-wise Adaptive Pruning with the paper's defaults; see docs/method.md for every parameter."""

    sparsity: Sparsity = 0.5
    init_steps: int = 64
    explore_steps: int = 2
    period: int = 20
    aggregate: str = "max"
    memory: str = "max"
    decay: float = 0.9
    forget_finished: bool = False
    selection: str = "topk"

    name: ClassVar[str] = "bap"
    summary: ClassVar[str] = "Batch-wise Adaptive Pruning: a shared mask, looked at again every period"
    source: ClassVar[str] = "Batch-wise Adaptive Pruning, section 3"

    def index_set(self) -> IndexSet:
        sparsity, schedule = (
            parse_sparsity(self.sparsity),
            Schedule(self.init_steps, self.explore_steps, self.period),
        )
        return IndexSet(
            sparsity,
            unless_zero(sparsity, schedule),
            aggregate=self.aggregate,
            memory=self.memory,
            decay=self.decay,
            forget_finished=self.forget_finished,
            selection=self.selection,
        )
