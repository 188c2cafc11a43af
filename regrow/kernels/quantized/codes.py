"""Weights rounded to a few bits: groups of codes, each with a scale and an offset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self, final

import torch
from torch import Tensor
from torch.nn.functional import pad

from regrow.kernels.cpu_library import LONG, POINTER, Kernel

GROUP: Final = 128  # weights of a row that share a scale and an offset
# Shares of a group's range that are tried. A narrower range rounds its ends off and everything else finer.
RANGES: Final = (1.0, 0.94, 0.88, 0.82)
_COMPILED: Final = Kernel("rounded_codes", *[POINTER] * 6, *[LONG] * 5)
_ELEMENTS: Final = 2**18  # weights that are rounded at once, so that temporaries stay in the CPU's caches


@final
@dataclass(frozen=True)
class Codes:
    """A weight W [out, in] as whole numbers: W is about scale * code + offset, by groups along its rows.

    The last group of a row is shorter if the group does not divide the row.
    """

    codes: Tensor  # [out, in] uint8, below 2^bits
    scale: Tensor  # [out, groups] float32, with the values of bfloat16
    offset: Tensor  # [out, groups] float32, with the values of bfloat16
    bits: int
    group: int
    lost: float  # sum of the squared differences between weight and rounded weight

    @classmethod
    def of(cls, weight: Tensor, bits: int = 4, group: int = GROUP) -> Self:
        """Rounds every weight to the nearest code, with the best of a few ranges for every group."""
        if weight.device.type == "cpu" and _COMPILED.get(weight.dtype) is not None:
            return cls._compiled(weight.detach().contiguous(), bits, group)
        return cls._plain(weight.detach(), bits, group)

    @classmethod
    def _compiled(cls, weight: Tensor, bits: int, group: int) -> Self:
        outputs, inputs = weight.shape
        shares = torch.tensor(_shares(bits))
        codes = torch.empty(weight.shape, dtype=torch.uint8)
        scale, offset, lost = torch.empty(3, outputs, -(-inputs // group)).unbind()
        operands = (weight, shares, codes, scale, offset, lost)
        sizes = len(shares), 2**bits - 1, outputs, inputs, group
        _COMPILED[weight.dtype](*(tensor.data_ptr() for tensor in operands), *sizes)
        return cls(codes, scale, offset, bits, group, float(lost.sum(dtype=torch.float64)))

    @classmethod
    def _plain(cls, weight: Tensor, bits: int, group: int) -> Self:
        outputs, inputs = weight.shape
        filled = -(-inputs // group) * group
        some = max(1, _ELEMENTS // filled)
        parts = [_rounded(rows, bits, group) for rows in torch.split(weight, some)]
        codes, scale, offset, lost = (torch.cat(kind) for kind in zip(*parts, strict=True))
        codes = codes.view(outputs, filled)[:, :inputs].contiguous()
        return cls(codes, scale, offset, bits, group, float(lost.sum(dtype=torch.float64)))

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Returns the codes of weights with their outputs side by side; bits and groups have to be equal."""
        codes, scale, offset = (
            torch.cat([getattr(part, name) for part in parts]) for name in ("codes", "scale", "offset")
        )
        return cls(codes, scale, offset, parts[0].bits, parts[0].group, sum(part.lost for part in parts))

    def expanded(self, dtype: torch.dtype) -> Tensor:
        """Returns the rounded weight [out, in]."""
        inputs = self.codes.shape[1]
        scale, offset = (
            kind.repeat_interleave(self.group, dim=1)[:, :inputs] for kind in (self.scale, self.offset)
        )
        return (scale * self.codes + offset).to(dtype)


def _shares(bits: int) -> Sequence[float]:
    """Returns the ranges to try. Eight bits are fine enough for the whole range."""
    return RANGES if bits < 8 else RANGES[:1]


def _rounded(weight: Tensor, bits: int, group: int) -> Sequence[Tensor]:
    """Returns codes [n, groups, group], scale, offset and squared error [n, groups] of some rows [n, in]."""
    exact = pad(weight.float(), (0, -weight.shape[1] % group), mode="replicate")
    exact = exact.view(len(weight), -1, group)
    real = torch.arange(exact.shape[1] * group, device=weight.device).view(-1, group) < weight.shape[1]
    low, high = exact.aminmax(dim=-1, keepdim=True)
    most = 2**bits - 1
    best: Sequence[Tensor] = ()
    least = torch.full_like(low, torch.inf)
    for share in _shares(bits):
        middle, half = (low + high) / 2, share * (high - low) / 2
        # Scale and offset are stored in bfloat16, so codes are rounded to the nearest with those values.
        scale = (2 * half / most).bfloat16().float()
        offset = (middle - half).bfloat16().float()
        steps = torch.where(scale > 0, 1 / scale, 0)
        codes = ((exact - offset) * steps).round_().clamp_(0, most)
        error = ((codes * scale + offset - exact) * real).square_().sum(dim=-1, keepdim=True)
        better = error < least
        found = codes, scale, offset
        best = [torch.where(better, *pair) for pair in zip(found, best, strict=True)] if best else found
        least = torch.where(better, error, least)
    codes, scale, offset = best
    return codes.to(torch.uint8), scale[..., 0], offset[..., 0], least[..., 0]
