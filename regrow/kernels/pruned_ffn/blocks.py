"""New neurons written into the blocks of a laid-out copy, in plain PyTorch: the definition that the kernel is tested against."""

from __future__ import annotations

import torch
from torch import Tensor

from regrow.kernels.laid_out.weight import BLOCK


def write_neurons(sources: tuple[Tensor, Tensor, Tensor], places: Tensor, neurons: Tensor, blocks: tuple[Tensor, Tensor, Tensor]) -> None:
    """Puts the neurons [n] of the sources gate, up and down^T [F, D] at the `places` [n] of a copy, given as the `blocks` of its gate,
    up and down (`LaidOutWeight.blocks`). Places ascend."""
    for source, target in zip(sources[:2], blocks[:2], strict=True):
        words = target.flatten(-2).view(torch.int32).transpose(1, 2)  # of 32 bits: [places / 64, 64, words]
        words[places // BLOCK, places % BLOCK] = source[neurons].view(torch.int32)
    columns = blocks[2].permute(1, 3, 0, 2)  # values: [places / p, p, D / 64, 64]
    pairs = columns.shape[1]
    columns[places // pairs, places % pairs] = sources[2][neurons].view(columns.dtype).view(len(neurons), *columns.shape[2:])
