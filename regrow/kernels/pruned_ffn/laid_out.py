"""A compact copy of the retained neurons in oneDNN's layout, for batches of several rows on a CPU.

A refresh writes the changed neurons directly into that layout (`LaidOutWeight.blocks`), because converting a
whole matrix again would read and write all of it. Padding beyond the retained neurons is zero, and so is its
activation.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from regrow.core import FFNWeights
from regrow.kernels.laid_out.choose_matmul import MatmulChoice
from regrow.kernels.laid_out.gate import LaidOutGate
from regrow.kernels.laid_out.weight import BLOCK, LaidOutWeight, has_blocks
from regrow.kernels.pruned_ffn.places import Places


@final
class LaidOutFFN:
    """The sparse FFN over a compact copy in oneDNN's layout."""

    def __init__(self, weights: FFNWeights, keep: int, scratch: Tensor, matmul: MatmulChoice) -> None:
        """The weights and `keep` have to pass `fits`."""
        (neurons, width), places = weights.gate.shape, _filled(keep)
        how = matmul.fewest, matmul.most
        self._gate, self._up = (LaidOutWeight(weights.gate.new_zeros(places, width), *how) for _ in range(2))
        self._down, self._down_bias = (
            LaidOutWeight(weights.down.new_zeros(width, places), *how),
            weights.down_bias,
        )
        self._down_rows = weights.down.detach().t().contiguous()  # [F, D]
        # Views of the blocks: gate and up as 32-bit words [places / 64, 64, words], down as elements
        # [places / p, p, D / 64, 64], where p elements share a word.
        words = [
            weight.blocks().flatten(-2).view(torch.int32).transpose(1, 2) for weight in (self._gate, self._up)
        ]
        self._rows = list(zip((weights.gate.detach(), weights.up.detach()), words, strict=True))
        self._columns = self._down.blocks().permute(1, 3, 0, 2)
        self._gate_bias, self._up_bias = (
            None if bias is None else bias.new_zeros(places) for bias in (weights.gate_bias, weights.up_bias)
        )
        biases = [(weights.gate_bias, self._gate_bias), (weights.up_bias, self._up_bias)]
        self._biases = [
            (source.detach(), target)
            for source, target in biases
            if source is not None and target is not None
        ]
        self._hidden = LaidOutGate(self._gate, self._up, (self._gate_bias, self._up_bias), weights.act)
        self._scratch, self._places = scratch, Places(neurons)

    @staticmethod
    def fits(weights: FFNWeights, keep: int) -> bool:
        """Returns True if oneDNN stores copies of this size in the layout that `load` writes."""
        width, dtype = weights.gate.shape[1], weights.gate.dtype
        return has_blocks(_filled(keep), width, dtype) and has_blocks(width, _filled(keep), dtype)

    @property
    def state_bytes(self) -> int:
        """Bytes allocated in addition to the model's own weights."""
        return self._gate.nbytes + self._up.nbytes + self._down.nbytes + self._down_rows.nbytes

    def forget(self) -> None:
        self._places.forget()

    def load(self, index: Tensor) -> int:
        """Makes `index` [keep] the retained set. Returns the number of neurons copied."""
        places, incoming = self._places.take(index)
        moved = self._scratch[: len(incoming)]
        block, at = places // BLOCK, places % BLOCK
        for source, target in self._rows:
            target[block, at] = torch.index_select(source, 0, incoming, out=moved).view(torch.int32)
        group, pairs = self._columns, self._columns.shape[1]
        torch.index_select(self._down_rows, 0, incoming, out=moved)
        group[places // pairs, places % pairs] = moved.view(group.dtype).view(len(incoming), *group.shape[2:])
        for source, target in self._biases:
            target[places] = source[incoming]
        return len(incoming)

    def __call__(self, x: Tensor) -> Tensor:
        """Computes y [..., D] from x [..., D] (eq. 4)."""
        return self._down(self._hidden(x), self._down_bias)


def _filled(keep: int) -> int:
    return -(-keep // BLOCK) * BLOCK
