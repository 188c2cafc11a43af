"""Decode attention that reads every key and value only once (CPU)."""

from __future__ import annotations

import ctypes
from typing import Final, final

import torch
from torch import Tensor

from regrow.kernels.cpu_library import FLOAT, LONG, POINTER, Kernel, check

PIECE: Final = 512  # positions per piece, as in `cpu.cpp`
CHANNELS, WIDEST = 32, 512  # the width of a head is a multiple of CHANNELS and at most WIDEST


@final
class _Sizes(ctypes.Structure):
    """Mirrors struct `AttentionSizes` of `cpu.cpp`."""

    _fields_ = [(name, LONG) for name in ("rows", "width", "heads", "kv_heads", "head_width")] + [
        *((f"{cache}_{stride}", LONG) for cache in "kv" for stride in ("row", "head", "place")),
        ("capacity", LONG),
    ]


KERNEL = Kernel("decode_attention", *[POINTER] * 7, ctypes.POINTER(_Sizes), FLOAT)


def takes(head_width: int) -> bool:
    """Returns True if the kernel supports heads of this width."""
    return head_width % CHANNELS == 0 and head_width <= WIDEST


def attention_workspace(rows: int, width: int, heads: int, head_width: int, capacity: int) -> tuple[int, ...]:
    """Returns the shape of the float32 workspace of `decode_attention`."""
    return rows, -(-capacity // PIECE), heads * width, head_width + 2


def decode_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    start: Tensor,
    length: Tensor,
    scale: float,
    out: Tensor,
    workspace: Tensor,
) -> None:
    """Writes the attention output of the queries q, as `reference.decode_attention` does.

    The head width must be one that `takes` accepts. Rows, heads and positions of the caches may have any
    stride; q, start, length and out must be contiguous. Raises ValueError or TypeError for other operands.
    """
    if any(tensor.stride(-1) != 1 for tensor in (k_cache, v_cache)):
        raise ValueError("the channels of a head have to be adjacent in memory")
    if not all(tensor.is_contiguous() for tensor in (q, start, length, out)):
        raise ValueError("queries, positions and results have to be contiguous")
    check(q.dtype, k_cache, v_cache, out)
    check(torch.int64, start, length)
    rows, width, heads, head_width = q.shape
    kv_heads, capacity = k_cache.shape[1], k_cache.shape[2]
    sizes = _Sizes(
        rows, width, heads, kv_heads, head_width, *k_cache.stride()[:3], *v_cache.stride()[:3], capacity
    )
    addresses = (tensor.data_ptr() for tensor in (q, k_cache, v_cache, start, length, out, workspace))
    KERNEL[q.dtype](*addresses, sizes, scale)
