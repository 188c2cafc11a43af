from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from regrow.core import Blocks
from regrow.errors import require_one_of
from regrow.method.base import Method, Needs, thresholds
from regrow.pruning.pruner import DensePruner, Pruner
from regrow.pruning.tokens import TokenPruner, TokenRule
from regrow.selection.budget import Sparsity
from regrow.selection.schedule import ALWAYS_DENSE


@final
@dataclass(frozen=True)
class CATS(Method):
    """Keeps the FFN neurons whose `|act(gate x)|` exceeds a calibrated threshold, in every decode step.

    The gate is computed for all neurons; up and down shrink. Prompts are processed densely. Source: Lee et
    al. 2024, github.com/ScalingIntelligence/CATS. The thresholds come from `regrow calibrate`.

    Args:
        sparsity: Target sparsity in [0, 1), the share of neurons that lie below the threshold on the
            calibration text. A float, a `Decimal` or a string. 0 is the dense model and needs no calibration.
        share: `"mean"` gives the batch one mask, from the mean over its live (unfinished) rows. `"none"`, as
            in the original, gives every row its own mask; the weights of a neuron are read if any live row
            keeps it.

    Raises:
        UsageError: If a parameter has the wrong type or lies outside of its range.

    Example:
        ```python
        calibration = regrow.Calibration.load("cats.safetensors")
        with regrow.prune(model, regrow.CATS(sparsity=0.5), calibration=calibration) as session:
            tokens = model.generate(**batch, max_new_tokens=512)
        ```
    """

    sparsity: Sparsity = 0.5
    share: str = "mean"

    name: ClassVar[str] = "cats"
    summary: ClassVar[str] = "Neurons whose gate exceeds a threshold, at every token; up and down shrink"
    source: ClassVar[str] = "Lee et al. 2024, github.com/ScalingIntelligence/CATS"

    def check(self) -> None:
        require_one_of(("mean", "none"), share=self.share)
        self._rule()

    @property
    def needs(self) -> Needs | None:
        return Needs.THRESHOLDS if self.target else None

    def pruner(self, blocks: Blocks, calibration: Mapping[str, Tensor]) -> Pruner:
        return (
            TokenPruner(self._rule(), blocks, thresholds(calibration, blocks.ffns))
            if self.target
            else DensePruner(ALWAYS_DENSE)
        )

    def _rule(self) -> TokenRule:
        return TokenRule(self.target, gated=True, share=self.share, by_threshold=True)
