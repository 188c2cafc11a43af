"""A compact copy of the retained neurons in the layout of our own matmul kernels (CPU).

Gate and up are stored in tiles of sixteen rows, in which sixteen bytes of each row lie side by side. Tiles of
gate and up alternate, so a matmul streams through both as through one matrix. A cache line holds only four
rows, so a refresh touches few lines of neurons that stay. Down is stored in oneDNN's layout.
"""

from __future__ import annotations

import ctypes
from typing import Final, final

import torch
from torch import Tensor

from regrow.core import FFNWeights
from regrow.kernels.cpu_library import LONG, POINTER, Kernel, check
from regrow.kernels.gate.reference import activation
from regrow.kernels.laid_out.weight import BLOCK, FEW_ROWS, MOST, address, few_rows_are_right, pair
from regrow.kernels.pruned_ffn.places import Places

TILE, PIECE = 16, 16  # rows of a tile, and the contiguous bytes of each row


@final
class _Sizes(ctypes.Structure):
    """Mirrors struct `CopySizes` of `cpu.cpp`."""

    _fields_ = [(name, LONG) for name in ("neurons", "places", "width", "gate_row", "up_row", "down_row")]


_WRITE: Final = Kernel("write_neurons", *[POINTER] * 8, ctypes.POINTER(_Sizes))
_HIDDEN: Final = Kernel("gated_quads", *[POINTER] * 6, *[LONG] * 3)


@final
class CompiledFFN:
    """The sparse FFN through our own matmul kernels."""

    def __init__(self, weights: FFNWeights, keep: int) -> None:
        """The weights have to pass `fits`."""
        like, (neurons, width) = weights.gate, weights.gate.shape
        places, numbers = -(-keep // TILE) * TILE, PIECE // like.itemsize
        # Gate, up and the neuron-major down: [F, D] each.
        self._sources = (
            like.detach(),
            weights.up.detach(),
            weights.down.detach().t().contiguous(),
        )
        hidden = like.new_zeros(places // TILE, 2, width // numbers, TILE, numbers)
        self._copies = (
            hidden,
            like.new_zeros(width // BLOCK, places // pair(like.dtype), BLOCK, pair(like.dtype)),
        )
        self._addresses = [part.data_ptr() for part in (hidden, hidden[:, 1], self._copies[1])]
        biases = weights.gate_bias, weights.up_bias
        self._biases = [(bias, None if bias is None else bias.new_zeros(places)) for bias in biases]
        self._down_bias, self._sizes = weights.down_bias, (places, width)
        self._places = Places(neurons)

    @staticmethod
    def fits(weights: FFNWeights) -> bool:
        """Returns True if this CPU has kernels for such an FFN."""
        adjacent = weights.gate.stride(1) == weights.up.stride(1) == 1
        return (
            adjacent
            and not weights.gate.shape[1] % BLOCK
            and few_rows_are_right(weights.gate.dtype)
            and activation(weights.act) == "silu"
        )

    @property
    def state_bytes(self) -> int:
        """Bytes allocated in addition to the model's own weights."""
        return sum(copy.nbytes for copy in (*self._copies, self._sources[2]))

    def forget(self) -> None:
        self._places.forget()

    def load(self, index: Tensor) -> int:
        """Makes `index`, at most `keep` neurons, the retained set. Returns the number of neurons copied."""
        places, incoming = self._places.take(index)
        check(torch.int64, places, incoming)
        sizes = _Sizes(len(places), *self._sizes, *(source.stride(0) for source in self._sources))
        read = (tensor.data_ptr() for tensor in (*self._sources, places, incoming))
        _WRITE[self._sources[0].dtype](*read, *self._addresses, sizes)
        for source, target in self._biases:
            if source is not None and target is not None:
                target[places] = source.detach()[incoming]
        return len(incoming)

    def __call__(self, x: Tensor) -> Tensor:
        """Computes y [..., D] from x [..., D] (eq. 4)."""
        check(self._sources[0].dtype, x)
        rows = x.shape[:-1].numel()
        if rows <= MOST:
            return self._some(x.contiguous(), rows)
        return torch.cat(
            [self._some(part.contiguous(), len(part)) for part in torch.split(x.reshape(rows, -1), MOST)]
        ).view(x.shape)

    def _some(self, x: Tensor, rows: int) -> Tensor:
        places, width = self._sizes
        hidden, y = x.new_empty(rows, places), torch.empty_like(x)
        gate, up, down = self._addresses
        gate_bias, up_bias = (address(copy) for _, copy in self._biases)
        _HIDDEN[x.dtype](x.data_ptr(), gate, gate_bias, up, up_bias, hidden.data_ptr(), rows, places, width)
        FEW_ROWS[x.dtype](
            hidden.data_ptr(), down, address(self._down_bias), y.data_ptr(), rows, width, places
        )
        return y
