"""The sparse FFN that reads its neurons where they lie: the Triton kernels behind the interface of a compact copy."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from regrow.core import FFNWeights
from regrow.kernels.pruned_ffn.triton import down_gather, gated_gather
from regrow.kernels.split_sums import LARGEST_ROWS, workspace_shape


@final
class GatherFFN:
    """Nothing is copied but down, once, to lie neuron by neuron. The index keeps its address, so that a recorded step sees a new one."""

    def __init__(self, weights: FFNWeights, act: str, keep: int) -> None:
        self._weights, self._act = weights, act
        self._down = weights.down.t().contiguous()
        # Filled up to a multiple of 16, so that loads are wide at every sparsity: what is beyond is neuron 0 with an activation of 0.
        self._index = torch.zeros(-(-keep // 16) * 16, dtype=torch.int64, device=weights.gate.device)
        self._retained = self._index[:keep]

    @property
    def state_bytes(self) -> int:
        """Memory taken beside the model's own weights."""
        return self._down.nbytes + self._index.nbytes

    def forget(self) -> None:
        self._index.zero_()

    def load(self, index: Tensor) -> int:
        """Makes `index` [keep] the retained set; no neuron is moved."""
        self._retained.copy_(index)
        return 0

    def __call__(self, x: Tensor) -> Tensor:
        """y [..., D] of x [..., D] (eq. 4)."""
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
