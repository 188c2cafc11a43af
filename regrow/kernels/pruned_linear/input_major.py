"""A masked linear layer that reads only the weights of the kept inputs (GPU)."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from regrow.kernels.pruned_linear.threshold import AboveThreshold
from regrow.kernels.pruned_linear.triton import (
    gather_exceeding,
    gather_inputs,
    gather_workspace,
    kept_linear,
)
from regrow.kernels.split_sums import LARGEST_ROWS, blocks, workspace_shape


@final
class InputMajorLinear:
    """A linear layer over an input-major copy of its weight, in which one row belongs to each input."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight, self._bias = weight.t().contiguous(), bias
        self._counts = weight.new_zeros(gather_workspace(weight.shape[1]), dtype=torch.int32)

    @property
    def state_bytes(self) -> int:
        """Bytes allocated in addition to the model's own weights."""
        return self._weight.nbytes + self._counts.nbytes

    def __call__(self, x: Tensor, keep: Tensor | AboveThreshold) -> Tensor:
        """Computes y [..., out] from the kept inputs of x [..., in]."""
        rows = x.reshape(-1, x.shape[-1])
        out = x.new_empty(len(rows), self._weight.shape[1])
        room = blocks(x.shape[-1], 16) * 16
        kept, index, count = (
            x.new_empty(len(rows), room),
            self._counts.new_empty(room),
            self._counts.new_empty(1),
        )
        if isinstance(keep, Tensor):
            gather_inputs(rows, keep, kept, index, count, self._counts)
        else:
            rule = keep.slot, keep.norms, keep.threshold, keep.abs_mean, keep.weights, keep.measured
            gather_exceeding(rows, *rule, kept, index, count, self._counts)
        for first in range(0, len(rows), LARGEST_ROWS):
            some, into = kept[first : first + LARGEST_ROWS], out[first : first + LARGEST_ROWS]
            workspace = x.new_empty(workspace_shape(len(some), *self._weight.shape), dtype=torch.float32)
            kept_linear(some, self._weight, index, count, self._bias, workspace, into)
        return out.view(*x.shape[:-1], -1)
