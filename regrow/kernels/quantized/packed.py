"""Rounded weights as the GPU kernels read them: two codes of 4 bits in a byte, scale and offset in a word."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Self, final

import torch
from torch import Tensor
from torch.nn.functional import pad

from regrow.kernels.quantized.codes import GROUP, Codes

HALF: Final = GROUP // 2


@final
@dataclass(frozen=True)
class PackedWeight:
    """A rounded weight W [out, in]. Rows are filled up to whole groups with codes that are 0.

    Byte b of a group of 4-bit codes holds code b in its low half and code b + 64 in its high half, so each
    half belongs to 64 adjacent inputs. An 8-bit code is one byte. Scale and offset of a group are bfloat16.
    They lie side by side in one word, because copies to shared memory move at least 4 bytes.
    """

    codes: Tensor  # uint8, [out, groups * 64] of 4 bits or [out, groups * 128] of 8 bits
    factors: Tensor  # int32 [out, groups]; the scale is the lower half of a word, the offset the upper half
    bits: int
    inputs: int
    # A power of two that brings the largest scale to between 0.5 and 1. A product with a scale then neither
    # overflows nor loses digits in float16.
    unit: float

    @classmethod
    def of(cls, weight: Codes) -> Self:
        """Packs the codes on their own device. Synchronises once.

        Raises ValueError for other groups than 128, or other codes than of 4 or 8 bits.
        """
        if weight.group != GROUP or weight.bits not in (4, 8):
            raise ValueError(
                f"the kernels read groups of {GROUP} with 4 or 8 bits, not {weight.group} with {weight.bits}"
            )
        outputs, inputs = weight.codes.shape
        whole = pad(weight.codes, (0, -inputs % GROUP)).view(outputs, -1, 2, HALF)
        packed = whole[:, :, 0] | whole[:, :, 1] << 4 if weight.bits == 4 else whole
        factors = torch.stack([weight.scale.bfloat16(), weight.offset.bfloat16()], dim=-1)
        largest = float(weight.scale.max())
        fits = 0 < largest < math.inf
        return cls(
            packed.reshape(outputs, -1).contiguous(),
            factors.view(torch.int32).squeeze(-1),
            weight.bits,
            inputs,
            2.0 ** -math.frexp(largest)[1] if fits else 1.0,
        )

    @property
    def shape(self) -> tuple[int, int]:
        """The shape (out, in) of the weight."""
        return len(self.codes), self.inputs

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales and offsets."""
        return self.codes.nbytes + self.factors.nbytes
