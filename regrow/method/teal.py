from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from regrow.core import FFN_SITES, Blocks, Site, Surface
from regrow.method.base import Method, Needs, thresholds
from regrow.method.budget import Sparsity
from regrow.pruning.inputs import InputPruner, InputRule


@final
@dataclass(frozen=True)
class TEAL(Method):
    """Inputs of the linears whose magnitude exceeds a calibrated threshold, at every token; over a batch by the mean over its live rows."""

    sparsity: Sparsity = 0.5
    ffn_only: bool = False
    share: str = "mean_abs"
    prompt: str = "dense"

    name: ClassVar[str] = "teal"
    summary: ClassVar[str] = "Inputs of all block linears (or the FFN's) above a threshold, at every token"
    source: ClassVar[str] = "Liu et al. 2025, github.com/FasterDecoding/TEAL"
    surface: ClassVar[Surface] = Surface.INPUTS

    def check(self) -> None:
        self._rule()

    @property
    def sites(self) -> tuple[Site, ...]:
        return FFN_SITES if self.ffn_only else tuple(Site)

    @property
    def needs(self) -> Needs | None:
        return Needs.THRESHOLDS if self.target else None

    def pruner(self, blocks: Blocks, calibration: Mapping[str, Tensor]) -> InputPruner | None:
        return InputPruner(self._rule(), blocks, thresholds(calibration, blocks.linears)) if self.target else None

    def _rule(self) -> InputRule:
        return InputRule(self.target, weighed=False, share=self.share, prompt=self.prompt, by_threshold=True)
