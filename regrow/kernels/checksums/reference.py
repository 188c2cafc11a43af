"""Checksums in plain PyTorch: the definition that the kernel is tested against."""

from __future__ import annotations

import torch
from torch import Tensor


def checksum(words: Tensor, factors: Tensor) -> Tensor:
    """[] int64: of chunks of `words` [n] int64, as long as `factors` [c], each weighed, those results weighed again (modulo 2^64)."""
    return _weighed(
        torch.stack([_weighed(part, factors) for part in torch.split(words, len(factors))]), factors
    )


def _weighed(words: Tensor, factors: Tensor) -> Tensor:
    """[] the sum of factor * word. Sign and exponent of a word's last element lie at its top, where products overflow:
    the upper half is added to the lower, so that they count there as well."""
    return (words >> 32).add_(words).mul_(factors[: len(words)]).sum()
