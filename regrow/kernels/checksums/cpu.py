"""Checksums in one pass over memory (CPU)."""

from __future__ import annotations

import torch
from torch import Tensor

from regrow.kernels.cpu_library import LONG, POINTER, Kernel, check

KERNEL = Kernel("checksum", *[POINTER] * 2, *[LONG] * 2, POINTER)


def checksum(words: Tensor, factors: Tensor) -> Tensor:
    """Returns the same checksum as `reference.checksum`, bit for bit.

    Both tensors must be contiguous int64, and there are at most c^2 words for c factors.
    """
    if not words.is_contiguous() or not factors.is_contiguous():
        raise ValueError("words and factors have to be contiguous")
    if len(words) > len(factors) ** 2:
        raise ValueError(f"{len(words)} words take more than {len(factors)} factors")
    check(torch.int64, words, factors)
    out = words.new_empty(())
    KERNEL[torch.int64](words.data_ptr(), factors.data_ptr(), len(words), len(factors), out.data_ptr())
    return out
