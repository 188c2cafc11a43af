"""The sparse FFN that reads the retained neurons from the model's own weights, with the Triton kernels."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from regrow.core import FFNWeights
from regrow.kernels.pruned_ffn.triton import down_gather, gated_gather
from regrow.kernels.split_sums import LARGEST_ROWS, workspace_shape


@final
class GatherFFN:
    """The sparse FFN through an index.

    Only down is copied, once, because the kernels read it neuron-major. The index keeps its address, so a
    captured step uses the latest selection.
    """

    def __init__(self, weights: FFNWeights, act: str, keep: int) -> None:
        self._weights, self._act = weights, act
        self._down = weights.down.t().contiguous()
        # The index is padded to a multiple of 16, so that loads stay vectorised at every sparsity. The
        # padding points to neuron 0, whose activation is written as 0 there.
        self._index = torch.zeros(-(-keep // 16) * 16, dtype=torch.int64, device=weights.gate.device)
        self._retained = self._index[:keep]

    @property
    def state_bytes(self) -> int:
        """Bytes allocated in addition to the model's own weights."""
        return self._down.nbytes + self._index.nbytes

    def forget(self) -> None:
        self._index.zero_()

    def load(self, index: Tensor) -> int:
        """Makes `index` [keep] the retained set. Returns 0, because no neuron is copied."""
        self._retained.copy_(index)
        return 0

    def __call__(self, x: Tensor) -> Tensor:
        """Computes y [..., D] from x [..., D] (eq. 4)."""
        rows = x.reshape(-1, x.shape[-1])
        out = torch.empty_like(rows)
        for first in range(0, len(rows), LARGEST_ROWS):
            self._run(rows[first : first + LARGEST_ROWS], out[first : first + LARGEST_ROWS])
        return out.view(x.shape)

    def _run(self, x: Tensor, out: Tensor) -> None:
        w, columns = self._weights, len(self._index)
        hidden = x.new_empty(len(x), columns)
        workspace = x.new_empty(workspace_shape(len(x), columns, x.shape[1]), dtype=torch.float32)
        gated_gather(x, w.gate, w.up, self._retained, w.gate_bias, w.up_bias, self._act, hidden)
        down_gather(hidden, self._down, self._index, w.down_bias, workspace, out)
