from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from regrow.core import Blocks
from regrow.errors import require_one_of
from regrow.method.base import Method
from regrow.pruning.pruner import DensePruner, Pruner
from regrow.pruning.tokens import TokenPruner, TokenRule
from regrow.selection.budget import Sparsity
from regrow.selection.schedule import ALWAYS_DENSE


@final
@dataclass(frozen=True)
class EveryToken(Method):
    """Keeps the top-k FFN neurons of each layer, selected in every decode step from its own activations.

    The score of a neuron is `|zbar|` with `zbar = z / ||z||`, aggregated over the live (unfinished) rows of
    the batch. Gate and up are computed for all neurons, because the scores depend on them, so only the down
    projection shrinks. The method is an ablation (the middle of the paper's figure 1), not a way to save
    time. Prompts are processed densely.

    Args:
        sparsity: Target sparsity in [0, 1), the share of neurons that a decode step leaves out of each down
            projection. A float, a `Decimal` or a string. 0 is the dense model.
        aggregate: How the scores of the live rows are combined: `"max"` or `"mean"`.

    Raises:
        UsageError: If a parameter has the wrong type or lies outside of its range.

    Example:
        ```python
        method = regrow.EveryToken(sparsity=0.5)
        with regrow.prune(model, method) as session:
            tokens = model.generate(**batch, max_new_tokens=512)
        ```
    """

    sparsity: Sparsity = 0.5
    aggregate: str = "max"

    name: ClassVar[str] = "every-token"
    summary: ClassVar[str] = (
        "Ablation: neurons chosen at every token from its own activations; only down shrinks"
    )
    source: ClassVar[str] = "Batch-wise Adaptive Pruning, figure 1 (middle)"

    def check(self) -> None:
        require_one_of(("max", "mean"), aggregate=self.aggregate)
        self._rule()

    def pruner(self, blocks: Blocks, calibration: Mapping[str, Tensor]) -> Pruner:  # noqa: ARG002
        return TokenPruner(self._rule(), blocks) if self.target else DensePruner(ALWAYS_DENSE)

    def _rule(self) -> TokenRule:
        return TokenRule(self.target, gated=False, share=self.aggregate, by_threshold=False)
