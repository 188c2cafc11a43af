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
    """Keeps two of each four weights, selected once over a calibration text, and zeroes the others.

    The pruned weights are those whose removal costs least, and the weights to their right are updated to
    compensate for the removal. All linear layers of the blocks are pruned once, before the run, so prompts
    run through the pruned weights too. The zeros run through dense kernels. Source: Frantar and Alistarh
    2023, github.com/IST-DASLab/sparsegpt. The weights come from `regrow calibrate`.

    Args:
        sparsity: Target sparsity, the share of weights that are zero: 0.5 (the 2:4 pattern) or 0, which is
            the dense model and needs no calibration. A float, a `Decimal` or a string.

    Raises:
        UsageError: If `sparsity` is neither 0.5 nor 0.

    Example:
        ```python
        calibration = regrow.Calibration.load("sparsegpt.safetensors")
        with regrow.prune(model, regrow.SparseGPT(sparsity=0.5), calibration=calibration) as session:
            tokens = model.generate(**batch, max_new_tokens=512)
        ```
    """

    sparsity: Sparsity = 0.5

    name: ClassVar[str] = "sparsegpt"
    summary: ClassVar[str] = "Static weights: 2:4, and the weights that stay are updated"
    source: ClassVar[str] = "Frantar and Alistarh 2023, github.com/IST-DASLab/sparsegpt"

    def check(self) -> None:
        if self.target:
            Pattern("2:4", self.target)

    def weight_pruner(self, weight: Tensor) -> WeightPruner:
        return SparseGPTPruner(weight)
