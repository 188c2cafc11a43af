"""A weight in oneDNN's layout, which few rows can be multiplied by at nearly the memory bandwidth (CPU)."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any, Final, final

import torch
from torch import Tensor

from regrow.kernels.cpu_library import LONG, POINTER, Kernel

ROWS: Final = 16  # rows for which oneDNN chooses the layout; it is the same for 4 to 512 rows
BLOCK: Final = 64  # outputs per block of the layout
MOST: Final = 64  # rows that our own matmul supports
_ONEDNN: Final[Any] = torch.ops.mkldnn
FEW_ROWS: Final = Kernel("few_rows", *[POINTER] * 4, *[LONG] * 3)


@final
class LaidOutWeight:
    """A weight W [out, in] in oneDNN's layout, to compute y = W x. `plain` restores it bit for bit."""

    def __init__(self, weight: Tensor, fewest: int = 1, most: int = 0) -> None:
        """Copies `weight` into the layout.

        Up to `most` rows are multiplied by our own matmul, if it supports this weight. oneDNN multiplies the
        others; fewer rows than `fewest` are padded, because oneDNN is faster then (`MatmulChoice`).
        """
        self._laid: Tensor = _ONEDNN._reorder_linear_weight(weight.detach(), ROWS)
        self.address = int(_ONEDNN.data_ptr(self._laid))
        self._fewest, self.shape, self.dtype = fewest, weight.shape, weight.dtype
        self.most = most if most and few_rows_are_right(weight.dtype) and self._lies_in_blocks(weight) else 0

    @property
    def nbytes(self) -> int:
        """Bytes of the laid-out weight, padding included."""
        return int(_ONEDNN._nbytes(self._laid))

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Computes y [..., out] from x [..., in]."""
        rows = x.shape[:-1].numel()
        if 0 < rows <= self.most and self.takes(x, bias):
            return self._our_matmul(x.contiguous(), rows, bias)
        if rows >= self._fewest or not rows:
            return self._onednn_matmul(x, bias)
        filled = torch.nn.functional.pad(x.reshape(rows, -1), (0, 0, 0, self._fewest - rows))
        return self._onednn_matmul(filled, bias)[:rows].view(*x.shape[:-1], -1)

    def takes(self, x: Tensor, bias: Tensor | None) -> bool:
        """Returns True if our kernels can read x and bias.

        Both must be on the CPU and have the weight's dtype, and x its input width. Other operands go to
        oneDNN, which raises an error if it does not support them either.
        """
        same = all(
            tensor.dtype is self.dtype and tensor.device.type == "cpu"
            for tensor in (x, bias)
            if tensor is not None
        )
        return same and x.shape[-1] == self.shape[1]

    def plain(self) -> Tensor:
        """Returns the weight [out, in] in its original layout."""
        return self._laid.to_dense()

    def blocks(self) -> Tensor:
        """Returns a writable view of the layout's memory, for weights that `has_blocks`.

        Its shape is [out / 64, in / p, 64, p], padded with zeros, and its elements are integers of the
        weight's element size. p elements of a row share 32 bits. What is written there changes the weight.
        """
        memory = torch.frombuffer(
            (ctypes.c_char * self.nbytes).from_address(self.address), dtype=_integer(self.dtype)
        )
        return memory.view(-(-self.shape[0] // BLOCK), -1, BLOCK, pair(self.dtype))

    def _lies_in_blocks(self, weight: Tensor) -> bool:
        """Returns True if the memory has the layout of `blocks`.

        Its size and its first and last block are compared, because oneDNN does not reveal its layouts.
        """
        if any(size % BLOCK for size in weight.shape) or self.nbytes != weight.nbytes:
            return False
        ends = torch.cat([weight[:BLOCK], weight[-BLOCK:]]).detach().view(_integer(self.dtype))
        split = ends.view(2, BLOCK, -1, pair(self.dtype)).transpose(1, 2)
        return torch.equal(self.blocks()[[0, -1]], split)

    def _our_matmul(self, x: Tensor, rows: int, bias: Tensor | None) -> Tensor:
        y = x.new_empty(*x.shape[:-1], self.shape[0])
        FEW_ROWS[x.dtype](x.data_ptr(), self.address, address(bias), y.data_ptr(), rows, *self.shape)
        return y

    def _onednn_matmul(self, x: Tensor, bias: Tensor | None) -> Tensor:
        y: Tensor = _ONEDNN._linear_pointwise(x, self._laid, bias, "none", [], "")
        return y


def address(bias: Tensor | None) -> int | None:
    """Returns the address of a bias, for a kernel."""
    # `detach` makes a view, which a recording sees and keeps alive.
    return None if bias is None else bias.detach().data_ptr()


def pair(dtype: torch.dtype) -> int:
    """Returns how many elements of a row lie side by side: as many as fill 4 bytes."""
    return 4 // dtype.itemsize


@cache
def can_lay_out(dtype: torch.dtype) -> bool:
    """Returns True if oneDNN can multiply laid-out weights of this dtype on this CPU."""
    if dtype not in (torch.bfloat16, torch.float32) or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    try:
        weight = LaidOutWeight(torch.ones(BLOCK, BLOCK, dtype=dtype))
        return bool((weight(torch.ones(2, BLOCK, dtype=dtype)) == BLOCK).all())
    except (AttributeError, RuntimeError):  # another CPU, another build of torch
        return False


@cache
def few_rows_are_right(dtype: torch.dtype) -> bool:
    """Returns True if our own matmul supports this dtype on this CPU, and agrees with torch's.

    The check uses small integers, whose sums are exact, and runs once.
    """
    if FEW_ROWS.get(dtype) is None or not has_blocks(2 * BLOCK, BLOCK, dtype):
        return False
    numbers = (torch.arange(2 * BLOCK * BLOCK) % 7 - 3).to(dtype).view(2 * BLOCK, BLOCK)
    y = LaidOutWeight(numbers)._our_matmul(numbers[:13], 13, None)
    return torch.equal(y, torch.nn.functional.linear(numbers[:13].double(), numbers.double()).to(dtype))


@cache
def has_blocks(outputs: int, inputs: int, dtype: torch.dtype) -> bool:
    """Returns True if oneDNN stores weights of this size in the layout of `LaidOutWeight.blocks`.

    oneDNN does not reveal its layouts, so a matrix of known numbers is laid out and compared.
    """
    if not can_lay_out(dtype) or outputs % BLOCK or inputs % BLOCK:
        return False
    # The modulus keeps all bit patterns below those of NaN.
    numbers = (torch.arange(outputs * inputs) % 30011).to(_integer(dtype)).view(outputs, inputs)
    weight = LaidOutWeight(numbers.view(dtype))
    split = numbers.view(-1, BLOCK, inputs // pair(dtype), pair(dtype)).transpose(1, 2)
    return weight.nbytes == numbers.nbytes and torch.equal(weight.blocks(), split)


def _integer(dtype: torch.dtype) -> torch.dtype:
    return torch.int16 if dtype.itemsize == 2 else torch.int32
