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
    """Neurons chosen at every token from its own |zbar|, maximum (or mean) over the batch, top k; gate and up are computed to know it."""

    sparsity: Sparsity = 0.5
    aggregate: str = "max"

    name: ClassVar[str] = "every-token"
    summary: ClassVar[str] = (
        "Ablation: neurons chosen at every token from the token itself; only down shrinks"
    )
    source: ClassVar[str] = "Batch-wise Adaptive Pruning, figure 1 (middle)"

    def check(self) -> None:
        require_one_of(("max", "mean"), aggregate=self.aggregate)
        self._rule()

    def pruner(self, blocks: Blocks, calibration: Mapping[str, Tensor]) -> Pruner:  # noqa: ARG002
        return TokenPruner(self._rule(), blocks) if self.target else DensePruner(ALWAYS_DENSE)

    def _rule(self) -> TokenRule:
        return TokenRule(self.target, gated=False, share=self.aggregate, by_threshold=False)
