from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from regrow.method.base import InputMethod
from regrow.pruning.inputs import InputRule
from regrow.selection.budget import Sparsity


@final
@dataclass(frozen=True)
class TEAL(InputMethod):
    """Keeps the inputs of linear layers whose magnitude exceeds a calibrated threshold, in every decode step.

    All rows of a batch share one mask, decided by the mean over the live (unfinished) rows. Linear layers
    with the same input (q, k and v; gate and up) share a mask too. Prompts are processed densely. Source: Liu
    et al. 2025, github.com/FasterDecoding/TEAL. The thresholds come from `regrow calibrate`.

    Args:
        sparsity: Target sparsity in [0, 1), the share of inputs that lie below the threshold on the
            calibration text. A float, a `Decimal` or a string. 0 is the dense model and needs no calibration.
        ffn_only: Prunes gate, up and down alone; by default the linear layers of attention are pruned as
            well.
        share: How the rows of a batch are combined into one score per input: `"mean_abs"` (the mean of
            `|x_i|` over the live rows) or `"abs_mean"` (the magnitude of the mean of `x_i`). For a single row
            both are the original TEAL.

    Raises:
        UsageError: If a parameter has the wrong type or lies outside of its range.

    Example:
        ```python
        calibration = regrow.Calibration.load("teal.safetensors")
        with regrow.prune(model, regrow.TEAL(sparsity=0.5), calibration=calibration) as session:
            tokens = model.generate(**batch, max_new_tokens=512)
        ```
    """

    sparsity: Sparsity = 0.5
    ffn_only: bool = False
    share: str = "mean_abs"

    name: ClassVar[str] = "teal"
    summary: ClassVar[str] = (
        "Inputs of the linear layers (all, or the FFN's) above a threshold, at every token"
    )
    source: ClassVar[str] = "Liu et al. 2025, github.com/FasterDecoding/TEAL"

    def rule(self) -> InputRule:
        return InputRule(self.target, weighed=False, share=self.share, by_threshold=True)
