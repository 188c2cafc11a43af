"""Inputs above a threshold in plain PyTorch: the definition that the kernel is tested against.

A CPU also runs it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from regrow.core import score_dtype


def magnitude(x: Tensor, slot: Tensor, *, abs_mean: bool) -> Tensor:
    """Returns the magnitude [in] of the inputs of x [T, in] over the tokens whose `slot` [T] is not negative.

    The magnitude is the mean of |x_i|; with `abs_mean` it is the absolute value of the mean of x_i.
    """
    x = x.to(score_dtype(x))
    live = slot >= 0
    total = torch.where(live[:, None], x if abs_mean else x.abs(), 0).sum(dim=0)
    return (total / live.sum().clamp(min=1)).abs()


def exceeding(
    x: Tensor,
    slot: Tensor,
    norms: Tensor | None,
    threshold: float,
    abs_mean: bool,
    weights: int,
    measured: Tensor,
    keep: Tensor,
) -> None:
    """Writes to keep [in] bool which inputs exceed `threshold`.

    The `magnitude` of an input, times its entry of `norms` [in] if given, is compared. Adds `weights` times
    the number of kept inputs to `measured` [] int64.
    """
    score = magnitude(x, slot, abs_mean=abs_mean)
    torch.gt(score if norms is None else score * norms.to(score.dtype), threshold, out=keep)
    measured += keep.sum() * weights
