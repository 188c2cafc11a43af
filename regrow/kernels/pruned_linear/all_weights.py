"""Masked linear layers that set dropped inputs to zero, and read all weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor
from torch.nn import functional


@final
class AllWeightsLinear:
    """A dense linear layer behind a mask on its inputs."""

    state_bytes = 0

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight, self._bias = weight, bias

    def __call__(self, x: Tensor, keep: Tensor) -> Tensor:
        """Computes y [..., out] from x [..., in] and keep [in] bool."""
        return functional.linear(torch.where(keep, x, 0), self._weight, self._bias)


@final
class AllWeightsLinears:
    """Several `AllWeightsLinear` of the same input, run one after another."""

    state_bytes = 0

    def __init__(self, weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> None:
        self._linears = [AllWeightsLinear(*pair) for pair in zip(weights, biases, strict=True)]

    def __call__(self, x: Tensor, keep: Tensor) -> Sequence[Tensor]:
        """Computes y [..., out] of every layer from x [..., in] and keep [in] bool."""
        return [linear(x, keep) for linear in self._linears]
