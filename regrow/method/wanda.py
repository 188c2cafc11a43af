from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from regrow.method.base import WeightMethod
from regrow.selection.budget import Sparsity
from regrow.weights import WeightPruner
from regrow.weights.pattern import HALF, Pattern
from regrow.weights.wanda_pruner import WandaPruner


@final
@dataclass(frozen=True)
class Wanda(WeightMethod):
    """Weights small in |W_ij| ||x_j||_2 over a calibration text are zero, two of each four (2:4) or a share of each row."""

    sparsity: Sparsity = 0.5
    pattern: str = "2:4"

    name: ClassVar[str] = "wanda"
    summary: ClassVar[str] = (
        "Static weights, whatever the input: 2:4 or unstructured, by weight times input norm"
    )
    source: ClassVar[str] = "Sun et al. 2024, github.com/locuslab/wanda"
    calibrated_by: ClassVar[tuple[str, ...]] = ("sparsity", "pattern")

    def check(self) -> None:
        Pattern(self.pattern, self.target or HALF)  # of nothing pruned, the name alone is checked

    def weight_pruner(self, weight: Tensor) -> WeightPruner:
        return WandaPruner(weight, Pattern(self.pattern, self.target))
