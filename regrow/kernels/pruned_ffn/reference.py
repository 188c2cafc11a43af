"""The sparse FFN in plain PyTorch: the definition that all implementations are tested against."""

from __future__ import annotations

import torch
from torch import Tensor

from regrow.core import FFNWeights


def sparse_ffn(weights: FFNWeights, index: Tensor, x: Tensor) -> Tensor:
    """Returns y [T, D] of x [T, D] with the retained neurons `index` [k] (paper, eq. 4).

    The biases of gate and up are indexed too; the bias of down is added in full.
    """
    gate = torch.nn.functional.linear(
        x, weights.gate[index], None if weights.gate_bias is None else weights.gate_bias[index]
    )
    up = torch.nn.functional.linear(
        x, weights.up[index], None if weights.up_bias is None else weights.up_bias[index]
    )
    return torch.nn.functional.linear(weights.act(gate) * up, weights.down[:, index], weights.down_bias)
