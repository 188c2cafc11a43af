"""Inputs above a threshold (TEAL, arXiv 2408.14690; WINA, arXiv 2505.19427) in plain PyTorch.

The definition that the GPU's kernel is tested against. A CPU runs it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from regrow.core import score_dtype


@final
@dataclass(frozen=True)
class AboveThreshold:
    """Keeps the inputs of x [T, in] whose score over a batch exceeds a threshold.

    The score of an input is its `magnitude`, times its entry of `norms` if given.

    Args:
        slot: [T] int64. Tokens with a negative slot do not count.
        norms: [in] float32, or None.
        threshold: Compared with the scores.
        abs_mean: See `magnitude`.
        weights: Added to `measured` for every kept input.
        measured: A counter [] int64 on the device.
    """

    slot: Tensor
    norms: Tensor | None
    threshold: float
    abs_mean: bool
    weights: int
    measured: Tensor


def magnitude(x: Tensor, slot: Tensor, *, abs_mean: bool) -> Tensor:
    """Returns the magnitude [in] of the inputs of x [T, in] over the tokens whose `slot` [T] is not negative.

    The magnitude is the mean of |x_i|; with `abs_mean` it is the absolute value of the mean of x_i.
    """
    x = x.to(score_dtype(x))
    live = slot >= 0
    total = torch.where(live[:, None], x if abs_mean else x.abs(), 0).sum(dim=0)
    return (total / live.sum().clamp(min=1)).abs()


def kept_inputs(x: Tensor, keep: Tensor | AboveThreshold) -> Tensor:
    """Returns the mask [in] bool of the inputs of x [..., in] to keep: `keep` itself, if it is a mask.

    Otherwise the kept inputs are also added to the counter of `keep`.
    """
    if isinstance(keep, Tensor):
        return keep
    score = magnitude(x.flatten(0, -2), keep.slot, abs_mean=keep.abs_mean)
    found = (score if keep.norms is None else score * keep.norms.to(score.dtype)) > keep.threshold
    keep.measured.add_(found.sum() * keep.weights)
    return found
