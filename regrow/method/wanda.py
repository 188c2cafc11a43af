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
    """Keeps the weights with the largest `|W_ij| ||x_j||_2` over a calibration text, and zeroes the others.

    All linear layers of the blocks are pruned once, before the run, so prompts run through the pruned weights
    too. The zeros run through dense kernels. Source: Sun et al. 2024, github.com/locuslab/wanda. The weights
    come from `regrow calibrate`.

    Args:
        sparsity: Target sparsity in [0, 1), the share of each row's weights that are zero. The pattern
            `"2:4"` allows only 0.5 (or 0). A float, a `Decimal` or a string. 0 is the dense model and needs
            no calibration.
        pattern: `"2:4"` keeps two of each aligned group of four inputs of a row. `"unstructured"` keeps the
            share `1 - sparsity` of each row, anywhere in the row.

    Raises:
        UsageError: If a parameter has the wrong type or lies outside of its range.

    Example:
        ```python
        calibration = regrow.Calibration.load("wanda.safetensors")
        with regrow.prune(model, regrow.Wanda(sparsity=0.5), calibration=calibration) as session:
            tokens = model.generate(**batch, max_new_tokens=512)
        ```
    """

    sparsity: Sparsity = 0.5
    pattern: str = "2:4"

    name: ClassVar[str] = "wanda"
    summary: ClassVar[str] = "Static weights: 2:4 or unstructured, by weight magnitude times input norm"
    source: ClassVar[str] = "Sun et al. 2024, github.com/locuslab/wanda"
    calibrated_by: ClassVar[tuple[str, ...]] = ("sparsity", "pattern")

    def check(self) -> None:
        Pattern(self.pattern, self.target or HALF)  # with sparsity 0, only the pattern's name is checked

    def weight_pruner(self, weight: Tensor) -> WeightPruner:
        return WandaPruner(weight, Pattern(self.pattern, self.target))
