"""Rounded weights for tests: every code occurs, and scales and offsets differ from group to group."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from kernels.operands import summed
from regrow.kernels.quantized.codes import GROUP, Codes


def rounded(seed: int, outputs: int, inputs: int, bits: int = 4, scale: float = 1.0) -> Codes:
    made = torch.Generator().manual_seed(seed)
    groups = -(-inputs // GROUP)
    codes = torch.randint(2**bits, (outputs, inputs), generator=made).to(torch.uint8)
    steps = (torch.rand(outputs, groups, generator=made) + 0.5) * scale / 2**bits
    offset = torch.randn(outputs, groups, generator=made) * scale
    factors = {"scale": steps.bfloat16().float(), "offset": offset.bfloat16().float()}
    return replace(Codes.of(torch.zeros(outputs, inputs), bits), codes=codes, **factors)


def chosen(weight: Codes, index: Tensor) -> Codes:
    """Returns some rows of a weight."""
    return replace(weight, codes=weight.codes[index], scale=weight.scale[index], offset=weight.offset[index])


def magnitudes(weight: Codes) -> Tensor:
    """Returns scale * code + |offset| as float64: the terms that the kernels add, in any order."""
    return replace(weight, offset=weight.offset.abs()).expanded(torch.float64)


def error_of(terms: Tensor, count: int) -> Tensor:
    """Returns an error bound of a sum over `count` inputs, in float32.

    Codes and inputs are exact. Beyond the additions, a term is rounded in the product of its group's sum with
    the scale, in that of the sum of x with the offset, and in the additions of both, of the bias, and of the
    warps' and splits' sums: fewer than 48 roundings.
    """
    return summed(terms, count + 48)
