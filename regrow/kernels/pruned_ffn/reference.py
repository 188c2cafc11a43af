"""The sparse FFN in plain PyTorch: the definition that both of its forms are tested against."""

from __future__ import annotations

import torch
from torch import Tensor

from regrow.core import FFNWeights


def sparse_ffn(weights: FFNWeights, index: Tensor, x: Tensor) -> Tensor:
    """y [T, D] of x [T, D] through the neurons `index` [k] (paper, eq. 4): gate and up biases are indexed, the down bias is added whole."""
    gate = torch.nn.functional.linear(
        x, weights.gate[index], None if weights.gate_bias is None else weights.gate_bias[index]
    )
    up = torch.nn.functional.linear(
        x, weights.up[index], None if weights.up_bias is None else weights.up_bias[index]
    )
    return torch.nn.functional.linear(weights.act(gate) * up, weights.down[:, index], weights.down_bias)
