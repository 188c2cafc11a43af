"""Decides which weights of a matrix are kept, given a score for each weight."""

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
    """The pattern of the kept weights of a row.

    "2:4" keeps two of each aligned group of four inputs. "unstructured" keeps floor((1 - sparsity) * in)
    inputs. Raises UsageError for an unknown pattern, and for "2:4" with a sparsity other than 0.5.
    """

    name: str = "2:4"
    sparsity: Decimal = HALF

    def __post_init__(self) -> None:
        require_one_of(PATTERNS, pattern=self.name)
        if self.name == "2:4" and self.sparsity != HALF:
            raise UsageError(
                f"the pattern 2:4 drops half of the weights, not {self.sparsity}; "
                "set the sparsity to 0.5 or use unstructured"
            )

    def kept(self, scores: Tensor, name: str) -> Tensor:
        """Returns the mask `[out, in]` bool of the largest scores `[out, in]` of each group.

        Ties go to the lower index. Raises UsageError, which names the linear layer `name`, if the pattern
        does not fit the number of inputs.
        """
        group, keep = self.group(scores.shape[1], name)
        ranked = scores.reshape(len(scores), -1, group).sort(dim=-1, descending=True, stable=True).indices
        kept = torch.zeros_like(ranked, dtype=torch.bool).scatter_(-1, ranked[..., :keep], True)
        return kept.flatten(1)

    def prune(self, weight: Tensor, scores: Tensor, name: str) -> Tensor:
        """Returns a copy of the weight `[out, in]` with zeros in place of the pruned values.

        The kept values are the same bit for bit. Raises UsageError as `kept` does, RegrowError if a score is
        not finite.
        """
        require_finite(scores, name)
        return weight.masked_fill(~self.kept(scores, name), 0)

    def group(self, inputs: int, name: str) -> tuple[int, int]:
        """Returns the size of a group of competing inputs and the number of inputs kept in each group.

        Raises UsageError as `kept` does.
        """
        if self.name == "2:4":
            if inputs % 4:
                raise UsageError(
                    f"{name} has {inputs} inputs, which is not a multiple of four as 2:4 needs; "
                    "use the unstructured pattern"
                )
            return 4, 2
        try:
            return inputs, keep_count(self.sparsity, inputs)
        except UsageError:
            raise UsageError(
                f"sparsity {self.sparsity} keeps none of the {inputs} inputs of {name}; lower it"
            ) from None


def require_finite(values: Tensor, name: str) -> None:
    """Raises RegrowError unless all values are finite.

    The values were computed from the weight and the inputs of the linear layer `name`.
    """
    if not values.isfinite().all():
        raise RegrowError(
            f"the calibration text overflows in {name} or its weights are not finite; "
            "load the model in bfloat16 or float32"
        )
