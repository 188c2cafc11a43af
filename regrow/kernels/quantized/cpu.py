"""Weights of 4 or 8 bits in the layout of the compiled CPU kernels, and the matmuls over them."""

from __future__ import annotations

from typing import Final, final

import torch
from torch import Tensor

from regrow.kernels.cpu_library import LONG, POINTER, Kernel
from regrow.kernels.laid_out.weight import address
from regrow.kernels.quantized.codes import Codes

OUTPUTS: Final = 64  # outputs of a tile
BLOCK: Final = 8  # inputs that groups and rows have to be multiples of
_PACK: Final = {bits: Kernel(f"pack_codes_{bits}", *[POINTER] * 2, *[LONG] * 2) for bits in (4, 8)}
_ROWS: Final = {bits: Kernel(f"quantized_rows_{bits}", *[POINTER] * 5, *[LONG] * 4) for bits in (4, 8)}
_GATE: Final = {bits: Kernel(f"quantized_gate_{bits}", *[POINTER] * 8, *[LONG] * 4) for bits in (4, 8)}


@final
class Packed:
    """A weight [out, in] as codes, in tiles of 64 outputs (`cpu.cpp`)."""

    def __init__(self, codes: Codes) -> None:
        """The codes have to pass `fits`."""
        self.shape, self._bits, self._group = codes.codes.shape, codes.bits, codes.group
        self._words = torch.empty(self.shape.numel() * codes.bits // 32, dtype=torch.int32)
        _PACK[codes.bits][torch.bfloat16](codes.codes.data_ptr(), self._words.data_ptr(), *self.shape)
        factors = torch.stack([codes.scale, codes.offset]).view(2, -1, OUTPUTS, codes.scale.shape[1])
        # [tiles, groups, 2, 64]
        self._factors = factors.permute(1, 3, 0, 2).to(torch.bfloat16).contiguous()

    @staticmethod
    def fits(codes: Codes, dtype: torch.dtype) -> bool:
        """Returns True if the kernels are compiled here, and multiply inputs of `dtype` by these codes."""
        outputs, inputs = codes.codes.shape
        whole = not outputs % OUTPUTS and not inputs % BLOCK and not codes.group % BLOCK
        return whole and codes.codes.device.type == "cpu" and Packed.multiplies(dtype)

    @staticmethod
    def multiplies(dtype: torch.dtype) -> bool:
        """Returns True if the kernels are compiled on this CPU for inputs of `dtype`."""
        return dtype is torch.bfloat16 and all(kernel.get(dtype) is not None for kernel in _ROWS.values())

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales and offsets."""
        return self._words.nbytes + self._factors.nbytes

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Computes y [..., out] of bfloat16 x [..., in]."""
        x = x.contiguous()
        y = x.new_empty(*x.shape[:-1], self.shape[0])
        rows = x.shape[:-1].numel()
        operands = x.data_ptr(), *self._addresses(bias), y.data_ptr()
        _ROWS[self._bits][x.dtype](*operands, rows, *self.shape, self._group)
        return y

    def gated(self, up: Packed, x: Tensor, biases: tuple[Tensor | None, Tensor | None]) -> Tensor:
        """Computes silu(self x) * up x [..., out] of bfloat16 x [..., in]."""
        x = x.contiguous()
        y = x.new_empty(*x.shape[:-1], self.shape[0])
        rows = x.shape[:-1].numel()
        operands = *self._addresses(biases[0]), *up._addresses(biases[1])
        _GATE[self._bits][x.dtype](x.data_ptr(), *operands, y.data_ptr(), rows, *self.shape, self._group)
        return y

    def _addresses(self, bias: Tensor | None) -> tuple[int, int, int | None]:
        return self._words.data_ptr(), self._factors.data_ptr(), address(bias)
