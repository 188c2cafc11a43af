from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from regrow.errors import require_one_of
from regrow.method.base import InputMethod
from regrow.pruning.inputs import InputRule
from regrow.selection.budget import Sparsity
from regrow.selection.index_set import SELECTIONS


@final
@dataclass(frozen=True)
class WINA(InputMethod):
    """As TEAL, with every input weighed by the norm of its column of the weight: |x_i| ||W[:, i]||_2, so a mask for every linear."""

    sparsity: Sparsity = 0.5
    ffn_only: bool = False
    share: str = "mean_abs"
    selection: str = "threshold"

    name: ClassVar[str] = "wina"
    summary: ClassVar[str] = (
        "As TEAL, inputs weighed by the norms of their weight columns; by threshold or top k"
    )
    source: ClassVar[str] = "Chen et al. 2025, github.com/microsoft/wina"

    def rule(self) -> InputRule:
        require_one_of(SELECTIONS, selection=self.selection)
        return InputRule(
            self.target, weighed=True, share=self.share, by_threshold=self.selection == "threshold"
        )
