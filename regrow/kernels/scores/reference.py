"""Scores in plain PyTorch: the definition that the kernels are tested against.

A CPU also runs it, except for bfloat16 activations where the C++ kernels are compiled.
"""

from __future__ import annotations

import torch
from torch import Tensor

from regrow.core import Reduce


def observe(z: Tensor, slot: Tensor, total: Tensor, *_: Tensor, reduce: Reduce | None = None) -> None:
    """Adds zbar^2 of every token of z [T, F] to row `slot` [T] int64 of total [S, F] float32 (paper, eq. 2).

    zbar = z / ||z||_2 over all F neurons. A token whose slot is -1 does not count, and a token with ||z|| = 0
    adds nothing. All layers can be added at once: z [L, T, F], total [L, S, F].

    With `reduce`, z holds one shard's neurons, and the norm is that over the neurons of all shards.
    """
    total.index_add_(-2, slot.clamp(min=0), relative(z.to(total.dtype), slot >= 0, reduce).square_())


def relative(z: Tensor, live: Tensor, reduce: Reduce | None = None) -> Tensor:
    """Returns zbar [..., T, F] = z / ||z||_2 of the `live` [T] bool tokens; 0 elsewhere and for ||z|| = 0.

    With `reduce`, the norm is that over the neurons of all shards.
    """
    norm = torch.linalg.vector_norm(z, dim=-1, keepdim=True)
    if reduce is not None:
        norm = reduce(norm.square_()).sqrt_()
    relative: Tensor = z / norm
    return relative.masked_fill_(~(live[:, None] & (norm > 0)), 0)  # at the size of z, one temporary
