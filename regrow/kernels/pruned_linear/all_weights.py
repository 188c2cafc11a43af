"""Masked linear layers that set dropped inputs to zero, and read all weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor
from torch.nn import functional

from regrow.kernels.pruned_linear.threshold import AboveThreshold, kept_inputs


@final
class AllWeightsLinear:
    """A dense linear layer behind a mask on its inputs."""

    state_bytes = 0

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight, self._bias = weight, bias

    def __call__(self, x: Tensor, keep: Tensor | AboveThreshold) -> Tensor:
        """Computes y [..., out] from the kept inputs of x [..., in]."""
        return functional.linear(torch.where(kept_inputs(x, keep), x, 0), self._weight, self._bias)


@final
class AllWeightsLinears:
    """Several `AllWeightsLinear` of the same input, run one after another."""

    state_bytes = 0

    def __init__(self, weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> None:
        self._linears = [AllWeightsLinear(*pair) for pair in zip(weights, biases, strict=True)]

    def __call__(self, x: Tensor, keep: Tensor | AboveThreshold) -> Sequence[Tensor]:
        """Computes y [..., out] of every layer from the kept inputs of x [..., in]."""
        mask = kept_inputs(x, keep)
        return [linear(x, mask) for linear in self._linears]
