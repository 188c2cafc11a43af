"""A linear layer over a rounded weight on a GPU."""

from __future__ import annotations

from typing import final

from torch import Tensor

from regrow.kernels.quantized.codes import Codes
from regrow.kernels.quantized.packed import PackedWeight
from regrow.kernels.quantized.triton import quantized_linear
from regrow.kernels.split_sums import LARGEST_ROWS


@final
class PackedLinear:
    """A linear layer whose weight has 4 or 8 bits. It neither synchronises nor holds the model's weight."""

    def __init__(self, weight: Codes) -> None:
        self._weight = PackedWeight.of(weight)

    @property
    def shape(self) -> tuple[int, int]:
        """The shape (out, in) of the weight."""
        return self._weight.shape

    @property
    def nbytes(self) -> int:
        """Bytes of the weight."""
        return self._weight.nbytes

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Computes y [..., out] from x [..., in] and bias [out], in the dtype of x: bfloat16 or float16."""
        rows, weight = x.reshape(-1, x.shape[-1]), self._weight
        out = x.new_empty(len(rows), weight.shape[0])
        for first in range(0, len(rows), LARGEST_ROWS):
            some, into = rows[first : first + LARGEST_ROWS], out[first : first + LARGEST_ROWS]
            quantized_linear(some, weight.codes, weight.factors, weight.bits, bias, into)
        return out.view(*x.shape[:-1], -1)
