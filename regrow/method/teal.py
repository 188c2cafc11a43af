from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from regrow.method.base import InputMethod
from regrow.pruning.inputs import InputRule
from regrow.selection.budget import Sparsity


@final
@dataclass(frozen=True)
class TEAL(InputMethod):
    """Inputs of the linears whose magnitude exceeds a calibrated threshold, at every token; over a batch by the mean over its live rows."""

    sparsity: Sparsity = 0.5
    ffn_only: bool = False
    share: str = "mean_abs"

    name: ClassVar[str] = "teal"
    summary: ClassVar[str] = "Inputs of all block linears (or the FFN's) above a threshold, at every token"
    source: ClassVar[str] = "Liu et al. 2025, github.com/FasterDecoding/TEAL"

    def rule(self) -> InputRule:
        return InputRule(self.target, weighed=False, share=self.share, by_threshold=True)
