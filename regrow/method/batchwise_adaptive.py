from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

from regrow.method.base import NeuronMethod
from regrow.selection.budget import Sparsity, parse_sparsity
from regrow.selection.index_set import IndexSet
from regrow.selection.schedule import Schedule, unless_zero


@final
@dataclass(frozen=True)
class BatchwiseAdaptive(NeuronMethod):
    """Keeps the top-k FFN neurons of each layer for the whole batch, and selects them anew in every cycle.

    The prompt and the dense decode steps score the neurons by the model's own activations; the sparse steps
    in between compute only the kept neurons. This is Batch-wise Adaptive Pruning (the paper's equations 1 to
    4), with the paper's values as defaults. docs/method.md explains every parameter.

    Args:
        sparsity: Target sparsity rho in [0, 1), the share of neurons that a sparse step leaves out of each
            layer. A float, a `Decimal` or a string. 0 is the dense model.
        init_steps: T_init, the number of dense decode steps before the first sparse step, at least 0.
            With 0 the first mask comes from the prompt alone.
        explore_steps: T_e, the number of dense decode steps that end each cycle, from 0 to `period`. With 0
            the first mask is never renewed; with `period` all steps are dense.
        period: T_trans, the length of a cycle in decode steps, sparse and dense steps together, at least 1.
        aggregate: How the batch agrees on the importance of a neuron: `"max"` (the largest value of any
            sample) or `"mean"` (the mean over the samples).
        memory: How new scores enter the memory of a sample: `"max"` (the larger of memory and score),
            `"none"` (the latest scores replace the memory) or `"ema"` (exponential moving average).
        decay: Weight of the old memory in [0, 1]. Only `memory="ema"` uses it.
        forget_finished: Leaves samples that have generated their EOS out of later selections.
        selection: `"topk"` keeps the k most important neurons. `"threshold"` keeps the neurons whose
            importance exceeds a calibrated threshold; it needs a calibration.
        weigh: `"none"` takes scores as they are, as in the paper. `"down"` multiplies the score of each
            neuron by the norm of its column of the down projection. The method name `"bap-weighed"` stands
            for this setting.

    Raises:
        UsageError: If a parameter has the wrong type or lies outside of its range. When a model is pruned
            with `weigh="down"`, also if the norm of a column of a down projection is not finite.

    Example:
        ```python
        method = regrow.BatchwiseAdaptive(sparsity=0.5)
        with regrow.prune(model, method) as session:
            tokens = model.generate(**batch, max_new_tokens=512)
        ```
    """

    sparsity: Sparsity = 0.5
    init_steps: int = 64
    explore_steps: int = 2
    period: int = 20
    aggregate: str = "max"
    memory: str = "max"
    decay: float = 0.9
    forget_finished: bool = False
    selection: str = "topk"
    weigh: str = "none"

    name: ClassVar[str] = "bap"
    summary: ClassVar[str] = "Batch-wise Adaptive Pruning: one mask for the batch, renewed in every cycle"
    source: ClassVar[str] = "Batch-wise Adaptive Pruning, section 3"
    calibrated_by: ClassVar[tuple[str, ...]] = ("sparsity", "weigh")
    added: ClassVar[Mapping[str, Any]] = {"weigh": "none"}

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
            weigh=self.weigh,
        )
