"""A linear with some of its inputs taken for zero: all weights are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor
from torch.nn import functional


@final
class AllWeightsLinear:
    state_bytes = 0

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight, self._bias = weight, bias

    def __call__(self, x: Tensor, keep: Tensor) -> Tensor:
        """y [..., out] of x [..., in] and keep [in] bool."""
        return functional.linear(torch.where(keep, x, 0), self._weight, self._bias)


@final
class AllWeightsLinears:
    """Several of them, one after the other."""

    state_bytes = 0

    def __init__(self, weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> None:
        self._linears = [AllWeightsLinear(*of) for of in zip(weights, biases, strict=True)]

    def __call__(self, x: Tensor, keep: Tensor) -> Sequence[Tensor]:
        """y [..., out] of each, of x [..., in] and keep [in] bool."""
        return [linear(x, keep) for linear in self._linears]
