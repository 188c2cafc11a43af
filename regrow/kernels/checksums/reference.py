"""Checksums in plain PyTorch: the definition that the kernel is tested against."""

from __future__ import annotations

import torch
from torch import Tensor


def checksum(words: Tensor, factors: Tensor) -> Tensor:
    """Returns a checksum [] int64 of `words` [n] int64, modulo 2^64.

    The words are split into chunks of the length of `factors` [c] int64. Each chunk is reduced to the
    weighted sum of its words, and these sums are reduced to one in the same way.
    """
    return _weighed(
        torch.stack([_weighed(part, factors) for part in torch.split(words, len(factors))]), factors
    )


def _weighed(words: Tensor, factors: Tensor) -> Tensor:
    """Returns the weighted sum [] of words.

    The sign and exponent of a word's last element are its highest bits, which overflow in a multiplication.
    So the upper half of a word is first added to its lower half, where those bits count too.
    """
    return (words >> 32).add_(words).mul_(factors[: len(words)]).sum()
