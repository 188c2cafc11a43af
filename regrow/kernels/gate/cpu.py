"""silu(gate) * up in one pass (CPU)."""

from __future__ import annotations

import torch
from torch import Tensor

from regrow.kernels.cpu_library import LONG, POINTER, Kernel, check

KERNEL = Kernel("gated", *[POINTER] * 3, LONG)


def gated(gate: Tensor, up: Tensor) -> Tensor:
    """Returns silu(gate) * up, as `reference.gated` does. Both must be contiguous and of one dtype."""
    if not gate.is_contiguous() or not up.is_contiguous():
        raise ValueError("gate and up have to be contiguous")
    check(gate.dtype, up)
    out = torch.empty_like(gate)
    KERNEL[gate.dtype](gate.data_ptr(), up.data_ptr(), out.data_ptr(), gate.numel())
    return out
