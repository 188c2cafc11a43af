"""What stays of a weight matrix, given a score for each of its weights."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Final, final

import torch
from torch import Tensor

from regrow.errors import RegrowError, UsageError, require_one_of
from regrow.selection.budget import keep_count

PATTERNS: Final = ("2:4", "unstructured")
HALF: Final = Decimal("0.5")


@final
@dataclass(frozen=True)
class Pattern:
    """2:4 keeps two of each aligned group of four inputs of a row; unstructured keeps floor((1 - sparsity) * in) of each row."""

    name: str = "2:4"
    sparsity: Decimal = HALF

    def __post_init__(self) -> None:
        require_one_of(PATTERNS, pattern=self.name)
        if self.name == "2:4" and self.sparsity != HALF:
            raise UsageError(
                f"the pattern 2:4 drops half of the weights, not {self.sparsity}; set the sparsity to 0.5 or use unstructured"
            )

    def kept(self, scores: Tensor, name: str) -> Tensor:
        """Where the largest scores [out, in] of each group lie, bool [out, in]; of equal ones those at the lower index.

        Raises UsageError, naming the linear `name`, where the pattern does not fit its inputs.
        """
        group, keep = self.group(scores.shape[1], name)
        ranked = scores.reshape(len(scores), -1, group).sort(dim=-1, descending=True, stable=True).indices
        kept = torch.zeros_like(ranked, dtype=torch.bool).scatter_(-1, ranked[..., :keep], True)
        return kept.flatten(1)

    def prune(self, weight: Tensor, scores: Tensor, name: str) -> Tensor:
        """The weight [out, in] with zeros where it does not stay and the very same values where it does.

        Raises UsageError as `kept` does, RegrowError where a score is not finite.
        """
        require_finite(scores, name)
        return weight.masked_fill(~self.kept(scores, name), 0)

    def group(self, inputs: int, name: str) -> tuple[int, int]:
        """How many inputs compete with each other, and how many of them stay; raises UsageError as `kept` does."""
        if self.name == "2:4":
            if inputs % 4:
                raise UsageError(
                    f"{name} has {inputs} inputs, which is not a multiple of four as 2:4 needs; use the unstructured pattern"
                )
            return 4, 2
        try:
            return inputs, keep_count(self.sparsity, inputs)
        except UsageError:
            raise UsageError(
                f"sparsity {self.sparsity} keeps none of the {inputs} inputs of {name}; lower it"
            ) from None


def require_finite(values: Tensor, name: str) -> None:
    """Raises RegrowError unless all values, computed from the weight and the inputs of the linear `name`, are finite."""
    if not values.isfinite().all():
        raise RegrowError(
            f"the calibration text overflows in {name} or its weights are not finite; load the model in bfloat16 or float32"
        )
