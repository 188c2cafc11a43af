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
    """Neurons whose |act(gate x)| exceeds a calibrated threshold; the gate is dense, up and down shrink.

    `share`: one mask for the batch from the mean of its live rows, or, as in the original, "none": every row its own, and what any of
    them keeps is read.
    """

    sparsity: Sparsity = 0.5
    share: str = "mean"

    name: ClassVar[str] = "cats"
    summary: ClassVar[str] = "Neurons above a threshold of the gate, at every token; up and down shrink"
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
