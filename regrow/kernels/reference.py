"""What the kernels compute, in plain PyTorch: the definitions that every kernel is tested against."""

from __future__ import annotations

import torch
from torch import Tensor

from regrow.core import FFNWeights


def sparse_ffn(weights: FFNWeights, index: Tensor, x: Tensor) -> Tensor:
    """y [T, D] of x [T, D] through the neurons `index` [k] (paper, eq. 4): gate and up biases are indexed, the down bias is added whole."""
    gate = torch.nn.functional.linear(x, weights.gate[index], None if weights.gate_bias is None else weights.gate_bias[index])
    up = torch.nn.functional.linear(x, weights.up[index], None if weights.up_bias is None else weights.up_bias[index])
    return torch.nn.functional.linear(weights.act(gate) * up, weights.down[:, index], weights.down_bias)


def masked_linear(x: Tensor, weight_t: Tensor, keep: Tensor, bias: Tensor | None = None) -> Tensor:
    """y [T, out] of x [T, in] from the inputs `keep` [in] bool alone (TEAL, WINA): weight_t is input-major, [in, out]."""
    y = x[:, keep] @ weight_t[keep]
    return y if bias is None else y + bias
