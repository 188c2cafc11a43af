"""Chooses the form of weights of 4 and 8 bits that suits a device and a dtype."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from regrow.core import FFNWeights
from regrow.kernels.gate.reference import activation
from regrow.kernels.protocols import RoundedFFN
from regrow.kernels.quantized.codes import GROUP, Codes
from regrow.kernels.quantized.linear import QuantizedFFN, QuantizedWeight
from regrow.kernels.quantized.linear import packed as cpu_packed

if TYPE_CHECKING:
    from regrow.kernels.quantized.gather import QuantizedGatherFFN


def packed(codes: Codes, dtype: torch.dtype) -> QuantizedWeight:
    """Returns the codes as a weight for inputs of `dtype`, on the device of the codes."""
    if codes.bits in (4, 8) and _packs_on_gpu(codes.scale, dtype, codes.group):
        from regrow.kernels.quantized.packed_linear import PackedLinear

        return PackedLinear(codes)
    return cpu_packed(codes, dtype)


def _packs_on_gpu(like: Tensor, dtype: torch.dtype, group: int) -> bool:
    return like.is_cuda and dtype in (torch.bfloat16, torch.float16) and group == GROUP


def quantized_ffn(weights: FFNWeights, rounding: Callable[[Tensor], Codes], group: int) -> RoundedFFN:
    """Creates an FFN over weights of 4 bits, which `rounding` rounds in groups of `group`."""
    act = activation(weights.act)
    if act and _packs_on_gpu(weights.gate, weights.gate.dtype, group):
        biases = weights.gate_bias, weights.up_bias, weights.down_bias
        gate, up, down = map(rounding, (weights.gate, weights.up, weights.down.t().contiguous()))
        return quantized_gather_ffn(gate, up, down, act, biases, None)
    return QuantizedFFN(weights, rounding)


def quantized_gather_ffn(
    gate: Codes, up: Codes, down: Codes, act: str, biases: Sequence[Tensor | None], keep: int | None
) -> QuantizedGatherFFN:
    """Creates an FFN over 4-bit codes [F, D] on a GPU, which retains `keep` neurons, or all if it is None.

    `down` is neuron-major: row j belongs to neuron j. `biases` are those of gate, up and down.
    """
    from regrow.kernels.quantized.gather import PackedFFN, QuantizedGatherFFN

    return QuantizedGatherFFN(PackedFFN.of(gate, up, down, act, *biases), keep)
