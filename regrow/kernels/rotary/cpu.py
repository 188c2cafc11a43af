"""Rotary embedding and cache write, in one pass over each token (CPU)."""

from __future__ import annotations

import ctypes
from typing import Any, final

import torch
from torch import Tensor

from regrow.kernels.cpu_library import FLOAT, LONG, POINTER, Kernel, check


@final
class _Sizes(ctypes.Structure):
    """Mirrors struct `RotarySizes` of `cpu.cpp`."""

    _fields_ = [
        (name, LONG) for name in ("rows", "width", "heads", "kv_heads", "head_width", "qkv_row", "qkv_token")
    ] + [
        *((f"out_{stride}", LONG) for stride in ("row", "token", "head")),
        *((f"{cache}_{stride}", LONG) for cache in "kv" for stride in ("row", "head", "place")),
    ]


KERNEL = Kernel("rope_cache", *[POINTER] * 10, ctypes.POINTER(_Sizes), FLOAT)


def rope_cache(
    qkv: Tensor, q_weight: Tensor | None, k_weight: Tensor | None, eps: float, cos: Tensor, sin: Tensor,
    position: Tensor, at: Tensor, k_cache: Tensor, v_cache: Tensor, out: Tensor,
) -> None:  # fmt: skip
    """Rotates queries and keys and fills the KV cache, as `reference.rope_cache` does.

    Rows, tokens, heads and cache positions may have any stride. The channels of a head must be adjacent, and
    cos, sin, `position` and `at` contiguous. Raises ValueError or TypeError for other operands.
    """
    if (q_weight is None) != (k_weight is None):
        raise ValueError("queries and keys are normed both or neither")
    check(qkv.dtype, q_weight, k_weight, k_cache, v_cache, out)
    check(torch.float32, cos, sin)
    check(torch.int64, position, at)
    if any(
        tensor.stride(-1) != 1
        for tensor in (qkv, q_weight, k_weight, k_cache, v_cache, out)
        if tensor is not None
    ):
        raise ValueError("the channels of a head have to be adjacent in memory")
    if not all(tensor.is_contiguous() for tensor in (cos, sin, position, at)):
        raise ValueError("angles and positions have to be contiguous")
    rows, width, heads, head_width = out.shape
    strides = (*qkv.stride()[:2], *out.stride()[:3], *k_cache.stride()[:3], *v_cache.stride()[:3])
    sizes = _Sizes(rows, width, heads, k_cache.shape[1], head_width, *strides)
    norms = (None if weight is None else weight.data_ptr() for weight in (q_weight, k_weight))
    others: Any = (tensor.data_ptr() for tensor in (cos, sin, position, at, k_cache, v_cache, out))
    KERNEL[qkv.dtype](qkv.data_ptr(), *norms, *others, sizes, eps)
