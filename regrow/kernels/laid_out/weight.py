"""A weight in oneDNN's layout, which few rows are multiplied with at nearly the speed of the memory (CPU)."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any, Final, final

import torch
from torch import Tensor

from regrow.kernels.cpu_library import LONG, POINTER, Kernel

ROWS: Final = 16  # that the layout is asked for; oneDNN gives the same one for 4 to 512
BLOCK: Final = 64  # outputs that lie side by side
MOST: Final = 64  # rows that our own product takes
_ONEDNN: Final[Any] = torch.ops.mkldnn
FEW_ROWS: Final = Kernel("few_rows", *[POINTER] * 4, *[LONG] * 3)


@final
class LaidOutWeight:
    """W [out, in] for products y = W x. What is laid out can be had back bit for bit."""

    def __init__(self, weight: Tensor, fewest: int = 1, most: int = 0) -> None:
        """`fewest`: a product of fewer rows is filled up to so many, because oneDNN's is faster then. Up to `most` rows are multiplied by
        our own product where it can be (`MatmulChoice`)."""
        self._laid: Tensor = _ONEDNN._reorder_linear_weight(weight.detach(), ROWS)
        self.address = int(_ONEDNN.data_ptr(self._laid))
        self._fewest, self.shape, self.dtype = fewest, weight.shape, weight.dtype
        self.most = most if most and few_rows_are_right(weight.dtype) and self._lies_in_blocks(weight) else 0

    @property
    def nbytes(self) -> int:
        return int(_ONEDNN._nbytes(self._laid))

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """y [..., out] of x [..., in]."""
        rows = x.shape[:-1].numel()
        if 0 < rows <= self.most and self.takes(x, bias):
            return self._few(x.contiguous(), rows, bias)
        if rows >= self._fewest or not rows:
            return self._product(x, bias)
        filled = torch.nn.functional.pad(x.reshape(rows, -1), (0, 0, 0, self._fewest - rows))
        return self._product(filled, bias)[:rows].view(*x.shape[:-1], -1)

    def takes(self, x: Tensor, bias: Tensor | None) -> bool:
        """Whether a kernel may read x and bias as numbers of the weight's; of others oneDNN says what is wrong with them."""
        same = all(
            tensor.dtype is self.dtype and tensor.device.type == "cpu"
            for tensor in (x, bias)
            if tensor is not None
        )
        return same and x.shape[-1] == self.shape[1]

    def plain(self) -> Tensor:
        """[out, in] as it was given."""
        return self._laid.to_dense()

    def blocks(self) -> Tensor:
        """The memory itself, [out / 64, in / p, 64, p] integers of the weight's size, padded with zeros: what is written there is
        multiplied with. p values of a row share 32 bits. Only of a weight that `has_blocks`."""
        memory = torch.frombuffer(
            (ctypes.c_char * self.nbytes).from_address(self.address), dtype=_integer(self.dtype)
        )
        return memory.view(-(-self.shape[0] // BLOCK), -1, BLOCK, pair(self.dtype))

    def _lies_in_blocks(self, weight: Tensor) -> bool:
        """Whether the memory is as `blocks` says, by its size and its ends: oneDNN does not tell."""
        if any(size % BLOCK for size in weight.shape) or self.nbytes != weight.nbytes:
            return False
        ends = torch.cat([weight[:BLOCK], weight[-BLOCK:]]).detach().view(_integer(self.dtype))
        split = ends.view(2, BLOCK, -1, pair(self.dtype)).transpose(1, 2)
        return torch.equal(self.blocks()[[0, -1]], split)

    def _few(self, x: Tensor, rows: int, bias: Tensor | None) -> Tensor:
        y = x.new_empty(*x.shape[:-1], self.shape[0])
        FEW_ROWS[x.dtype](x.data_ptr(), self.address, address(bias), y.data_ptr(), rows, *self.shape)
        return y

    def _product(self, x: Tensor, bias: Tensor | None) -> Tensor:
        y: Tensor = _ONEDNN._linear_pointwise(x, self._laid, bias, "none", [], "")
        return y


def address(bias: Tensor | None) -> int | None:
    return None if bias is None else bias.detach().data_ptr()  # a view, which a recorded step holds on to


def pair(dtype: torch.dtype) -> int:
    """How many values of a row lie side by side."""
    return 4 // dtype.itemsize


@cache
def can_lay_out(dtype: torch.dtype) -> bool:
    """Whether oneDNN has products with laid-out weights of this type on this CPU."""
    if dtype not in (torch.bfloat16, torch.float32) or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    try:
        weight = LaidOutWeight(torch.ones(BLOCK, BLOCK, dtype=dtype))
        return bool((weight(torch.ones(2, BLOCK, dtype=dtype)) == BLOCK).all())
    except (AttributeError, RuntimeError):  # another CPU, another build of torch
        return False


@cache
def few_rows_are_right(dtype: torch.dtype) -> bool:
    """Whether there is our own product for this type on this CPU, and it gives what torch's gives: asked once, of whole numbers."""
    if FEW_ROWS.get(dtype) is None or not has_blocks(2 * BLOCK, BLOCK, dtype):
        return False
    numbers = (torch.arange(2 * BLOCK * BLOCK) % 7 - 3).to(dtype).view(2 * BLOCK, BLOCK)
    y = LaidOutWeight(numbers)._few(numbers[:13], 13, None)
    return torch.equal(y, torch.nn.functional.linear(numbers[:13].double(), numbers.double()).to(dtype))


@cache
def has_blocks(outputs: int, inputs: int, dtype: torch.dtype) -> bool:
    """Whether a weight of this size lies as `LaidOutWeight.blocks` says: found out by laying one out, since oneDNN does not tell."""
    if not can_lay_out(dtype) or outputs % BLOCK or inputs % BLOCK:
        return False
    numbers = (
        (torch.arange(outputs * inputs) % 30011).to(_integer(dtype)).view(outputs, inputs)
    )  # none of them is a NaN
    weight = LaidOutWeight(numbers.view(dtype))
    split = numbers.view(-1, BLOCK, inputs // pair(dtype), pair(dtype)).transpose(1, 2)
    return weight.nbytes == numbers.nbytes and torch.equal(weight.blocks(), split)


def _integer(dtype: torch.dtype) -> torch.dtype:
    return torch.int16 if dtype.itemsize == 2 else torch.int32
