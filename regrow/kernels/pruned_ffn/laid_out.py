"""A compact copy of the retained neurons in oneDNN's layout, for batches of several rows on a CPU.

A refresh writes the neurons that changed into the layout itself (`LaidOutWeight.blocks`), because to lay a whole matrix out anew reads and
writes all of it. Places beyond the retained neurons hold zeros, whose activation is zero.
"""

from __future__ import annotations

from typing import final

from torch import Tensor

from regrow.core import FFNWeights
from regrow.kernels.laid_out.gate import LaidOutGate
from regrow.kernels.laid_out.products import Products
from regrow.kernels.laid_out.weight import BLOCK, LaidOutWeight, has_blocks
from regrow.kernels.pruned_ffn import blocks, cpu
from regrow.kernels.pruned_ffn.places import Places


@final
class LaidOutFFN:
    def __init__(self, weights: FFNWeights, keep: int, products: Products) -> None:
        """Only where it `fits`."""
        (neurons, width), places = weights.gate.shape, _filled(keep)
        how = products.fewest, products.most
        gate, up = (LaidOutWeight(weights.gate.new_zeros(places, width), *how) for _ in range(2))
        self._down, self._down_bias = LaidOutWeight(weights.down.new_zeros(width, places), *how), weights.down_bias
        self._sources = weights.gate.detach(), weights.up.detach(), weights.down.detach().t().contiguous()  # [F, D] each
        self._blocks = gate.blocks(), up.blocks(), self._down.blocks()
        self._write = cpu.write_neurons if cpu.takes(self._sources) else blocks.write_neurons
        gate_bias, up_bias = (None if bias is None else bias.new_zeros(places) for bias in (weights.gate_bias, weights.up_bias))
        biases = [(weights.gate_bias, gate_bias), (weights.up_bias, up_bias)]
        self._biases = [(source.detach(), target) for source, target in biases if source is not None and target is not None]
        self._hidden = LaidOutGate(gate, up, (gate_bias, up_bias), weights.act)
        self._copied = gate.nbytes + up.nbytes + self._down.nbytes + self._sources[2].nbytes
        self._places = Places(neurons)

    @staticmethod
    def fits(weights: FFNWeights, keep: int) -> bool:
        """Whether oneDNN lays out copies of this size as they are written here."""
        width, dtype = weights.gate.shape[1], weights.gate.dtype
        return has_blocks(_filled(keep), width, dtype) and has_blocks(width, _filled(keep), dtype)

    @property
    def state_bytes(self) -> int:
        """Memory taken beside the model's own weights."""
        return self._copied

    def forget(self) -> None:
        self._places.forget()

    def load(self, index: Tensor) -> int:
        """Makes `index` [keep] the retained set; returns how many neurons were moved."""
        places, incoming = self._places.take(index)
        self._write(self._sources, places, incoming, self._blocks)
        for source, target in self._biases:
            target[places] = source[incoming]
        return len(incoming)

    def __call__(self, x: Tensor) -> Tensor:
        """y [..., D] of x [..., D] (eq. 4)."""
        return self._down(self._hidden(x), self._down_bias)


def _filled(keep: int) -> int:
    return -(-keep // BLOCK) * BLOCK
