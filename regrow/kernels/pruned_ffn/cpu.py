"""New neurons written into the blocks of a laid-out copy, in one pass (CPU)."""

from __future__ import annotations

import ctypes
from typing import final

import torch
from torch import Tensor

from regrow.kernels.cpu_library import LONG, POINTER, Kernel, check


@final
class _Sizes(ctypes.Structure):
    """CopySizes of `cpu.cpp`."""

    _fields_ = [(name, LONG) for name in ("neurons", "places", "width", "gate_row", "up_row", "down_row")]


KERNEL = Kernel("write_neurons", *[POINTER] * 8, ctypes.POINTER(_Sizes))


def takes(sources: tuple[Tensor, Tensor, Tensor]) -> bool:
    """Whether there is a kernel for these weights."""
    return KERNEL.get(sources[0].dtype) is not None and all(source.stride(1) == 1 for source in sources)


def write_neurons(sources: tuple[Tensor, Tensor, Tensor], places: Tensor, neurons: Tensor, blocks: tuple[Tensor, Tensor, Tensor]) -> None:
    """As `blocks.write_neurons`, of sources that it `takes`."""
    check(sources[0].dtype, *sources)
    check(torch.int64, places, neurons)
    width = sources[0].shape[1]
    sizes = _Sizes(len(places), len(blocks[0]) * blocks[0].shape[2], width, *(source.stride(0) for source in sources))
    addresses = (tensor.data_ptr() for tensor in (*sources, places, neurons, *blocks))
    KERNEL[sources[0].dtype](*addresses, sizes)
