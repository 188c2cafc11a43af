"""Parts of a decoder block over codes instead of weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from regrow import kernels
from regrow.adapter.projection import Projection
from regrow.core import FFNWeights
from regrow.kernels import GROUP, Codes, QuantizedLinear, RoundedFFN, packed


@final
class QuantizedProjection(Projection):
    """Queries, keys and values side by side."""

    def __init__(self, linear: QuantizedLinear) -> None:
        self._linear = linear

    def __call__(self, x: Tensor) -> Tensor:
        return self._linear(x)

    def refresh(self) -> None:
        """Does nothing, because codes are made anew if the weights have changed."""


def quantized_linear(linears: Sequence[nn.Linear], codes_of: Callable[[Tensor], Codes]) -> QuantizedLinear:
    """Returns linear layers of one input with their outputs side by side.

    `codes_of(weight)` returns the codes of the weight of one of them.
    """
    weight, bias = linears[0].weight, None
    if any(module.bias is not None for module in linears):
        biases: list[Tensor] = [
            weight.new_zeros(len(module.weight)) if module.bias is None else module.bias for module in linears
        ]
        bias = torch.cat(biases).detach()
    codes = Codes.joined([codes_of(module.weight) for module in linears])
    return QuantizedLinear(packed(codes, weight.dtype), bias)


def quantized_ffn(mlp: Any, codes_of: Callable[[Tensor], Codes], group: int = GROUP) -> RoundedFFN:
    """Returns the FFN of a block.

    `codes_of(weight)` returns the codes of the weight of a linear layer, in groups of `group`.
    """
    weights = FFNWeights(
        gate=mlp.gate_proj.weight,
        up=mlp.up_proj.weight,
        down=mlp.down_proj.weight,
        act=mlp.act_fn,
        gate_bias=mlp.gate_proj.bias,
        up_bias=mlp.up_proj.bias,
        down_bias=mlp.down_proj.bias,
    )
    return kernels.quantized_ffn(weights, codes_of, group)
