from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from regrow.core import FFN_SITES, Blocks, Site, Surface
from regrow.errors import UsageError
from regrow.method.base import Method, Needs, thresholds
from regrow.method.budget import Sparsity
from regrow.method.index_set import SELECTIONS
from regrow.pruning.inputs import InputPruner, InputRule


@final
@dataclass(frozen=True)
class WINA(Method):
    """As TEAL, with every input weighed by the norm of its column of the weight: |x_i| ||W[:, i]||_2, so a mask for every linear."""

    sparsity: Sparsity = 0.5
    ffn_only: bool = False
    share: str = "mean_abs"
    prompt: str = "dense"
    selection: str = "threshold"

    name: ClassVar[str] = "wina"
    summary: ClassVar[str] = "As TEAL, inputs weighed by the norms of their weight columns; by threshold or top k"
    source: ClassVar[str] = "Chen et al. 2025, github.com/microsoft/wina"
    surface: ClassVar[Surface] = Surface.INPUTS

    def check(self) -> None:
        if self.selection not in SELECTIONS:
            raise UsageError(f"unknown selection {self.selection!r}; choose one of {', '.join(SELECTIONS)}")
        self._rule()

    @property
    def sites(self) -> tuple[Site, ...]:
        return FFN_SITES if self.ffn_only else tuple(Site)

    @property
    def needs(self) -> Needs | None:
        return Needs.THRESHOLDS if self.target and self._rule().by_threshold else None

    def pruner(self, blocks: Blocks, calibration: Mapping[str, Tensor]) -> InputPruner | None:
        return InputPruner(self._rule(), blocks, thresholds(calibration, blocks.linears)) if self.target else None

    def _rule(self) -> InputRule:
        return InputRule(self.target, weighed=True, share=self.share, prompt=self.prompt, by_threshold=self.selection == "threshold")
