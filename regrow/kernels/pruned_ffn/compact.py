"""A preallocated compact copy of the retained neurons, refreshed by copying only those that changed.

Gate and up are [k, D] and down is [D, k], as in the model, so the matmuls are those of a smaller dense FFN.
Writing a column of down touches every row of the copy, but a refresh happens only once in about twenty steps.
Columns are read from a neuron-major copy of down. Memory, on top of the model's own weights: F D elements for
the neuron-major down and 3 k D for the compact copy.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor
from torch.nn import functional

from regrow.core import FFNWeights
from regrow.kernels.pruned_ffn.places import Places


@final
class CompactFFN:
    """The sparse FFN over a plain compact copy."""

    def __init__(self, weights: FFNWeights, keep: int, scratch: Tensor) -> None:
        neurons, width = weights.gate.shape
        self._act, self._down_bias = weights.act, weights.down_bias
        # Written at once, so that the memory is taken now and not at the first load.
        self._gate_up = weights.gate.new_zeros(2, keep, width)
        self._down = weights.down.new_zeros(width, keep)
        self._bias = (
            None if weights.gate_bias is None and weights.up_bias is None else weights.gate.new_zeros(2, keep)
        )
        self._rows = [(weights.gate.detach(), self._gate_up[0]), (weights.up.detach(), self._gate_up[1])]
        self._down_rows = weights.down.detach().t().contiguous()  # [F, D]
        self._biases: list[tuple[Tensor, Tensor]] = []
        if self._bias is not None:
            biases = [(weights.gate_bias, self._bias[0]), (weights.up_bias, self._bias[1])]
            self._biases = [(source.detach(), target) for source, target in biases if source is not None]
        self._scratch, self._places, self._kept = scratch, Places(neurons), 0

    @property
    def state_bytes(self) -> int:
        """Bytes allocated in addition to the model's own weights."""
        return self._gate_up.nbytes + self._down.nbytes + self._down_rows.nbytes

    def forget(self) -> None:
        self._places.forget()

    def load(self, index: Tensor) -> int:
        """Makes `index`, at most `keep` neurons, the retained set. Returns the number of neurons copied.

        On a CPU only the neurons that changed are copied, if the new set has the size of the old one. On
        other devices all are copied, because comparing the sets would synchronise.
        """
        self._kept = index.numel()
        if index.device.type != "cpu":
            places, incoming = torch.arange(self._kept, device=index.device), index
        else:
            places, incoming = self._places.take(index)
        moved = self._scratch[: len(incoming)]
        for source, target in self._rows:
            target.index_copy_(0, places, torch.index_select(source, 0, incoming, out=moved))
        self._down.index_copy_(1, places, torch.index_select(self._down_rows, 0, incoming, out=moved).t())
        for source, target in self._biases:
            target.index_copy_(0, places, source[incoming])
        return len(incoming)

    def __call__(self, x: Tensor) -> Tensor:
        """Computes y [..., D] from x [..., D]: W_2[:, I] (act(W_g[I] x) * (W_1[I] x)), eq. 4."""
        kept = self._kept
        gate, up = self._gate_up[:, :kept]
        gate_bias, up_bias = (None, None) if self._bias is None else self._bias[:, :kept]
        hidden = self._act(functional.linear(x, gate, gate_bias)) * functional.linear(x, up, up_bias)
        return functional.linear(hidden, self._down[:, :kept], self._down_bias)
