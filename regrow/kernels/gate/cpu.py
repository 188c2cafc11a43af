"""SiLU of the gate times up, in one pass (CPU)."""

from __future__ import annotations

import torch
from torch import Tensor

from regrow.kernels.cpu_library import LONG, POINTER, Kernel, check

KERNEL = Kernel("gated", *[POINTER] * 3, LONG)


def gated(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, as `reference.gated`; both are contiguous."""
    if not gate.is_contiguous() or not up.is_contiguous():
        raise ValueError("gate and up have to be contiguous")
    check(gate.dtype, up)
    out = torch.empty_like(gate)
    KERNEL[gate.dtype](gate.data_ptr(), up.data_ptr(), out.data_ptr(), gate.numel())
    return out
