"""SparseGPT with the 2:4 pattern (Frantar and Alistarh 2023, arXiv 2301.00774).

When a weight is pruned, the weights to its right are updated to compensate for it.
"""

from __future__ import annotations

from typing import Final, final

import torch
from torch import Tensor

from regrow.errors import RegrowError
from regrow.weights import WeightPruner
from regrow.weights.pattern import Pattern, require_finite

BLOCK: Final = 128  # columns of a block; columns to the right of it are updated when the block is done
DAMPING: Final = 0.01  # share of the mean diagonal that is added to the diagonal
_PATTERN: Final = Pattern("2:4")


@final
class SparseGPTPruner(WeightPruner):
    """Prunes a weight with the Hessian H = (2/n) sum x x^T over n sequences, and updates the kept weights.

    The computation is in float32 (float64 for a float64 weight).
    """

    def __init__(self, weight: Tensor) -> None:
        self._weight = weight
        width, dtype = weight.shape[1], torch.promote_types(weight.dtype, torch.float32)
        self._outer = weight.new_zeros(width, width, dtype=dtype)
        self._sequences = 0

    def add(self, x: Tensor) -> None:
        x = x.to(self._outer.dtype)
        self._outer.addmm_(x.t(), x)
        self._sequences += 1

    def prune(self, name: str) -> Tensor:
        _PATTERN.group(self._weight.shape[1], name)  # raises UsageError for a width that does not fit
        hessian = self._outer * (2 / self._sequences)
        weight = self._weight.to(hessian.dtype, copy=True)
        dead = hessian.diagonal() == 0  # inputs that are always zero; their weights become zero
        hessian.diagonal().masked_fill_(dead, 1)
        weight.masked_fill_(dead, 0)
        hessian.diagonal().add_(DAMPING * hessian.diagonal().mean())
        upper = _upper_of_inverse(hessian, name)
        for start in range(0, weight.shape[1], BLOCK):
            end = start + BLOCK
            errors = _prune_block(weight[:, start:end], upper[start:end, start:end], name)
            weight[:, end:] -= errors @ upper[start:end, end:]
        pruned = weight.to(self._weight.dtype)
        require_finite(pruned, name)
        return pruned


def _upper_of_inverse(hessian: Tensor, name: str) -> Tensor:
    """Returns the upper triangular U `[in, in]` with U^T U = H^-1.

    Once the weights before it are fixed, the removal of weight w_i costs w_i^2 / U_ii^2.
    """
    require_finite(hessian, name)
    try:
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
        upper: Tensor = torch.linalg.cholesky(inverse, upper=True)
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        raise RegrowError(
            f"the Hessian of the inputs of {name} cannot be inverted; "
            "calibrate on more, and more varied, text"
        ) from error
    return upper


def _prune_block(block: Tensor, upper: Tensor, name: str) -> Tensor:
    """Prunes the columns of `block` `[out, columns]` in place, left to right.

    Returns the errors (w - q) / U_ii `[out, columns]` of the weights w that became q.
    """
    errors = torch.zeros_like(block)
    for group in range(0, block.shape[1], 4):
        four = slice(group, group + 4)
        kept = _PATTERN.kept(block[:, four].square() / upper.diagonal()[four].square(), name)
        for i, stays in enumerate(kept.unbind(dim=1), start=group):
            pruned = block[:, i].where(stays, 0)
            errors[:, i] = (block[:, i] - pruned) / upper[i, i]
            block[:, i] = pruned
            block[:, i + 1 :] -= errors[:, i, None] * upper[i, i + 1 :]
    return errors
