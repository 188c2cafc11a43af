"""Random weights and inputs for measurements."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear, silu

from regrow.core import FFNWeights


def normal(*sizes: int, dtype: torch.dtype, device: torch.device | None = None) -> Tensor:
    """Returns normal random numbers of variance 1 / (last size), so that x @ W.T has the scale of x."""
    return torch.randn(sizes, dtype=dtype, device=device).mul_(sizes[-1] ** -0.5)


def ffn_weights(
    width: int, neurons: int, *, dtype: torch.dtype, device: torch.device | None = None
) -> FFNWeights:
    """Returns random weights of one SiLU-gated FFN without biases."""
    gate, up = (normal(neurons, width, dtype=dtype, device=device) for _ in range(2))
    return FFNWeights(gate, up, normal(width, neurons, dtype=dtype, device=device), silu)


def dense_ffn(weights: FFNWeights, x: Tensor) -> Tensor:
    """Computes y [T, D] from x [T, D] with all neurons, as a model does."""
    return linear(weights.act(linear(x, weights.gate)) * linear(x, weights.up), weights.down)
