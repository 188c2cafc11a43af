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
    """Keeps the inputs of each linear layer with the largest `|x_i| ||W[:, i]||_2`, in every decode step.

    This is TEAL with every input weighted by the norm of its weight column, so every linear layer has a mask
    of its own. All rows of a batch share the mask. Prompts are processed densely. Source: Chen et al. 2025,
    github.com/microsoft/wina. The thresholds come from `regrow calibrate`.

    Args:
        sparsity: Target sparsity in [0, 1), the share of inputs that are left out. With thresholds, this
            share holds on the calibration text. A float, a `Decimal` or a string. 0 is the dense model.
        ffn_only: Prunes gate, up and down alone; by default the linear layers of attention are pruned as
            well.
        share: How the rows of a batch are combined into one value per input: `"mean_abs"` (the mean of
            `|x_i|` over the live, unfinished rows) or `"abs_mean"` (the magnitude of the mean of `x_i`).
        selection: `"threshold"` keeps the inputs whose score exceeds a calibrated threshold. `"topk"` keeps
            the k inputs with the largest scores and needs no calibration.

    Raises:
        UsageError: If a parameter has the wrong type or lies outside of its range.

    Example:
        ```python
        calibration = regrow.Calibration.load("wina.safetensors")
        with regrow.prune(model, regrow.WINA(sparsity=0.5), calibration=calibration) as session:
            tokens = model.generate(**batch, max_new_tokens=512)
        ```
    """

    sparsity: Sparsity = 0.5
    ffn_only: bool = False
    share: str = "mean_abs"
    selection: str = "threshold"

    name: ClassVar[str] = "wina"
    summary: ClassVar[str] = (
        "As TEAL, inputs weighted by the norms of their weight columns; by threshold or top k"
    )
    source: ClassVar[str] = "Chen et al. 2025, github.com/microsoft/wina"

    def rule(self) -> InputRule:
        require_one_of(SELECTIONS, selection=self.selection)
        return InputRule(
            self.target, weighed=True, share=self.share, by_threshold=self.selection == "threshold"
        )
