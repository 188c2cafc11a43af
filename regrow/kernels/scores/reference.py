"""Scores in plain PyTorch: the definition that the kernels are tested against, and what a CPU runs for all but bfloat16."""

from __future__ import annotations

import torch
from torch import Tensor


def observe(z: Tensor, slot: Tensor, total: Tensor, *_: Tensor) -> None:
    """Adds zbar^2 of z [T, F] to the rows `slot` [T] int64 of total [S, F] float32 (paper, eq. 2): zbar = z / ||z||_2 over all F neurons.

    A token whose slot is -1 does not count, one with ||z|| = 0 adds nothing. Or all layers at once: z [L, T, F], total [L, S, F].
    """
    total.index_add_(-2, slot.clamp(min=0), relative(z.to(total.dtype), slot >= 0).square_())


def relative(z: Tensor, live: Tensor) -> Tensor:
    """zbar [..., T, F] = z / ||z||_2 of the live tokens [T] bool, 0 of the others and where ||z|| = 0."""
    norm = torch.linalg.vector_norm(z, dim=-1, keepdim=True)
    return torch.where(live[:, None] & (norm > 0), z / norm, 0)
