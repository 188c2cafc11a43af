"""A masked linear layer that reads only the weights of the kept inputs (GPU)."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from regrow.kernels.pruned_linear.triton import gather_inputs, kept_linear
from regrow.kernels.split_sums import LARGEST_ROWS, blocks, workspace_shape


@final
class InputMajorLinear:
    """A linear layer over an input-major copy of its weight, in which one row belongs to each input."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight, self._bias = weight.t().contiguous(), bias

    @property
    def state_bytes(self) -> int:
        """Bytes allocated in addition to the model's own weights."""
        return self._weight.nbytes

    def __call__(self, x: Tensor, keep: Tensor) -> Tensor:
        """Computes y [..., out] from x [..., in] and keep [in] bool."""
        rows = x.reshape(-1, x.shape[-1])
        out = x.new_empty(len(rows), self._weight.shape[1])
        room = blocks(x.shape[-1], 16) * 16
        kept, index = x.new_empty(len(rows), room), keep.new_empty(room, dtype=torch.int32)
        count = index.new_empty(1)
        gather_inputs(rows, keep, kept, index, count)
        for first in range(0, len(rows), LARGEST_ROWS):
            some, into = kept[first : first + LARGEST_ROWS], out[first : first + LARGEST_ROWS]
            workspace = x.new_empty(workspace_shape(len(some), *self._weight.shape), dtype=torch.float32)
            kept_linear(some, self._weight, index, count, self._bias, workspace, into)
        return out.view(*x.shape[:-1], -1)
