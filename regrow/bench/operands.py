"""Weights and inputs that measurements run on."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear, silu

from regrow.core import FFNWeights


def normal(*sizes: int, dtype: torch.dtype, device: torch.device | None = None) -> Tensor:
    """Normal numbers of variance 1 / (last size), so that a product with them keeps the scale of what it is given."""
    return torch.randn(sizes, dtype=dtype, device=device).mul_(sizes[-1] ** -0.5)


def ffn_weights(
    width: int, neurons: int, *, dtype: torch.dtype, device: torch.device | None = None
) -> FFNWeights:
    """One FFN [neurons, width], gated by SiLU, without biases."""
    gate, up = (normal(neurons, width, dtype=dtype, device=device) for _ in range(2))
    return FFNWeights(gate, up, normal(width, neurons, dtype=dtype, device=device), silu)


def dense_ffn(weights: FFNWeights, x: Tensor) -> Tensor:
    """y [T, D] of x [T, D] through every neuron, as a model computes it."""
    return linear(weights.act(linear(x, weights.gate)) * linear(x, weights.up), weights.down)
