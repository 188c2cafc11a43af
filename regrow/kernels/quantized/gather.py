"""The FFN over rounded weights on a GPU: with all neurons, or with those that an index selects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor

from regrow.kernels.quantized.codes import Codes
from regrow.kernels.quantized.packed import PackedWeight
from regrow.kernels.quantized.triton import quantized_gated
from regrow.kernels.quantized.triton_down import down_workspace, quantized_down
from regrow.kernels.split_sums import LARGEST_ROWS


@final
@dataclass(frozen=True)
class PackedFFN:
    """The rounded weights of one gated FFN, in which row j of each belongs to neuron j.

    The FFN computes y = down^T (act(gate x + gate_bias) * (up x + up_bias)) + down_bias.
    """

    gate: PackedWeight  # [F, D]
    up: PackedWeight  # [F, D]
    down: PackedWeight  # [F, D]
    act: str  # one of ACTIVATIONS
    gate_bias: Tensor | None = None  # [F]
    up_bias: Tensor | None = None  # [F]
    down_bias: Tensor | None = None  # [D]

    @classmethod
    def of(cls, gate: Codes, up: Codes, down: Codes, act: str, *biases: Tensor | None) -> Self:
        """Packs 4-bit codes [F, D]; down is neuron-major, with groups along D. `biases` in the order above.

        Raises ValueError for other codes.
        """
        if any(one.bits != 4 or one.codes.shape != gate.codes.shape for one in (gate, up, down)):
            raise ValueError("gate, up and down are [F, D] and have 4 bits")
        return cls(PackedWeight.of(gate), PackedWeight.of(up), PackedWeight.of(down), act, *biases)

    @property
    def nbytes(self) -> int:
        """Bytes of the weights."""
        return self.gate.nbytes + self.up.nbytes + self.down.nbytes


@final
class QuantizedGatherFFN:
    """An FFN over rounded weights that reads `keep` neurons through an index, or all of them if it is None.

    Several of them may share one `PackedFFN`. The index keeps its address, so a captured step uses the latest
    selection.
    """

    def __init__(self, weights: PackedFFN, keep: int | None) -> None:
        self._weights, self._index = weights, None
        self._retained: Tensor | None = None
        self._columns = weights.gate.shape[0]
        if keep is not None:
            # Padded to a multiple of 16, as in `GatherFFN`: neuron 0, whose activation is written as 0 there.
            index = weights.gate.codes.new_zeros(-(-keep // 16) * 16, dtype=torch.int64)
            self._index, self._retained, self._columns = index, index[:keep], len(index)

    @property
    def state_bytes(self) -> int:
        """Bytes allocated in addition to the model's own weights, shared ones included."""
        return self._weights.nbytes + (0 if self._index is None else self._index.nbytes)

    def keeping(self, keep: int) -> QuantizedGatherFFN:
        """Returns an FFN over the same weights that retains `keep` neurons."""
        return QuantizedGatherFFN(self._weights, keep)

    def forget(self) -> None:
        if self._index is not None:
            self._index.zero_()

    def load(self, index: Tensor) -> int:
        """Makes `index` [keep] the retained set. Returns 0, because no neuron is copied."""
        assert self._retained is not None, "an FFN over all neurons takes no index"
        self._retained.copy_(index)
        return 0

    def __call__(self, x: Tensor) -> Tensor:
        """Computes y [..., D] from x [..., D], in the dtype of x: bfloat16 or float16."""
        rows = x.reshape(-1, x.shape[-1])
        out = torch.empty_like(rows)
        for first in range(0, len(rows), LARGEST_ROWS):
            self._run(rows[first : first + LARGEST_ROWS], out[first : first + LARGEST_ROWS])
        return out.view(x.shape)

    def _run(self, x: Tensor, out: Tensor) -> None:
        w, columns = self._weights, self._columns
        hidden = x.new_empty(len(x), columns)
        workspace = x.new_empty(down_workspace(len(x), columns, x.shape[1]), dtype=torch.float32)
        quantized_gated(
            x, w.gate.codes, w.gate.factors, w.up.codes, w.up.factors, self._retained, w.gate_bias,
            w.up_bias, w.act, hidden,
        )  # fmt: skip
        down = w.down
        quantized_down(hidden, down.codes, down.factors, down.unit, self._index, w.down_bias, workspace, out)
