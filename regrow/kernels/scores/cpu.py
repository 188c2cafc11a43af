"""Scores in two passes over the activations (CPU)."""

from __future__ import annotations

import ctypes
from typing import final

import torch
from torch import Tensor

from regrow.kernels.cpu_library import LONG, POINTER, Kernel, check


@final
class _Sizes(ctypes.Structure):
    """Mirrors struct `ScoreSizes` of `cpu.cpp`."""

    _fields_ = [
        (name, LONG)
        for name in ("layers", "tokens", "neurons", "z_layer", "z_token", "total_layer", "total_slot")
    ]


KERNEL = Kernel("observe", *[POINTER] * 4, ctypes.POINTER(_Sizes))


def observe(z: Tensor, slot: Tensor, total: Tensor) -> None:
    """Adds the squares of normed activations z to the rows `slot` of `total`, as `reference.observe` does.

    z [(L,) T, F] is float32 or bfloat16, `total` [(L,) S, F] float32 and `slot` [T] int64. The last dimension
    of z and `total` must have stride 1, and `slot` must be contiguous (ValueError). Other dtypes are a
    TypeError.
    """
    if z.dim() == 2:
        z, total = z[None], total[None]
    if z.stride(-1) != 1 or total.stride(-1) != 1 or not slot.is_contiguous():
        raise ValueError("neurons have to be adjacent in memory, and slots contiguous")
    check(torch.float32, total)
    check(torch.int64, slot)
    if z.shape[1:2] != slot.shape or z.shape[::2] != total.shape[::2]:
        raise ValueError(
            f"activations {list(z.shape)}, slots {list(slot.shape)} and totals {list(total.shape)} do not fit"
        )
    scale = total.new_empty(z.shape[:2])
    sizes = _Sizes(*z.shape, *z.stride()[:2], *total.stride()[:2])
    KERNEL[z.dtype](z.data_ptr(), slot.data_ptr(), total.data_ptr(), scale.data_ptr(), sizes)
