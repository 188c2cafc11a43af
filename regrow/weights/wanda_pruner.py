"""Wanda prunes weights with a small |weight| times input norm (Sun et al. 2023, arXiv 2306.11695)."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from regrow.weights import WeightPruner
from regrow.weights.pattern import Pattern


@final
class WandaPruner(WeightPruner):
    """Scores weights by |W_ij| * sqrt(mean over all tokens of x_j^2).

    The scores are in float32 (float64 for a float64 weight).
    """

    def __init__(self, weight: Tensor, pattern: Pattern) -> None:
        self._weight, self._pattern = weight, pattern
        self._squares = weight.new_zeros(
            weight.shape[1], dtype=torch.promote_types(weight.dtype, torch.float32)
        )
        self._tokens = 0

    def add(self, x: Tensor) -> None:
        self._squares += x.to(self._squares.dtype).square().sum(dim=0)
        self._tokens += len(x)

    def prune(self, name: str) -> Tensor:
        scale = (self._squares / self._tokens).sqrt_()
        return self._pattern.prune(self._weight, self._weight.abs() * scale, name)
