"""Linear layers and FFNs over rounded weights in plain PyTorch: the definition that the kernels implement.

A rounded weight is W = scale * code + offset. The kernels compute the same products in another form: they sum
the codes of a group first, and multiply the sum by the scale of the group. If an input is infinite, their
result is NaN where the definition may give an infinity.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import linear

from regrow.core import FFNWeights
from regrow.kernels.pruned_ffn.reference import sparse_ffn
from regrow.kernels.quantized.codes import Codes


def quantized_linear(x: Tensor, weight: Codes, bias: Tensor | None) -> Tensor:
    """Returns y [T, out] = x [T, in] W^T + bias, computed in the dtype of x."""
    return linear(x, weight.expanded(x.dtype), bias)


def quantized_ffn(
    x: Tensor,
    gate: Codes,
    up: Codes,
    down: Codes,
    act: Callable[[Tensor], Tensor],
    index: Tensor | None,
    gate_bias: Tensor | None = None,
    up_bias: Tensor | None = None,
    down_bias: Tensor | None = None,
) -> Tensor:
    """Returns y [T, D] of x [T, D] with the neurons `index` [k], or with all; computed in the dtype of x.

    gate, up and the neuron-major down are [F, D].
    """
    wide = (one.expanded(x.dtype) for one in (gate, up, down))
    weights = FFNWeights(next(wide), next(wide), next(wide).t(), act, gate_bias, up_bias, down_bias)
    return sparse_ffn(weights, torch.arange(len(gate.codes)) if index is None else index, x)
