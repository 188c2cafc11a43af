from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from regrow.method.base import WeightMethod
from regrow.selection.budget import Sparsity
from regrow.weights import WeightPruner
from regrow.weights.pattern import Pattern
from regrow.weights.sparsegpt_pruner import SparseGPTPruner


@final
@dataclass(frozen=True)
class SparseGPT(WeightMethod):
    """Two of each four weights are zero, those whose removal costs least over a calibration text; the others make up for them."""

    sparsity: Sparsity = 0.5

    name: ClassVar[str] = "sparsegpt"
    summary: ClassVar[str] = "Static weights, whatever the input: 2:4, the weights that stay are updated"
    source: ClassVar[str] = "Frantar and Alistarh 2023, github.com/IST-DASLab/sparsegpt"

    def check(self) -> None:
        if self.target:
            Pattern("2:4", self.target)

    def weight_pruner(self, weight: Tensor) -> WeightPruner:
        return SparseGPTPruner(weight)
