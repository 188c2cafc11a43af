"""Operands that make a kernel's mistakes visible: rows with gaps, and NaN in all that must not be read or must be written."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

NAN = float("nan")


@dataclass(frozen=True)
class Framed:
    """A matrix inside a larger one of NaN: rows are not adjacent, and what lies around tells whether it was read or written. There are as
    many rows below as a block may overrun."""

    whole: Tensor
    inner: Tensor  # a view

    def frame_is_untouched(self) -> bool:
        outside = torch.ones_like(self.whole, dtype=torch.bool)
        rows, columns = self.inner.shape
        outside[1 : rows + 1, 2 : columns + 2] = False
        return bool(self.whole[outside].isnan().all())


def framed(values: Tensor) -> Framed:
    rows, columns = values.shape
    whole = torch.full((rows + 65, columns + 5), NAN, dtype=values.dtype)
    inner = whole[1 : rows + 1, 2 : columns + 2]
    inner.copy_(values)
    return Framed(whole, inner)


def poisoned(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.full(shape, NAN, dtype=dtype)


def random(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def shuffled(seed: int, neurons: int, keep: int) -> Tensor:
    """`keep` of the neurons, in no order."""
    return torch.randperm(neurons, generator=torch.Generator().manual_seed(seed))[:keep]


def summed(terms: Tensor, count: int) -> Tensor:
    """The error of a float32 sum of `count` products, whatever its order, for the sum of their magnitudes: a rounding each, and one more
    for a product that is not fused."""
    return (count + 1) * torch.finfo(torch.float32).eps * terms


def within(actual: Tensor, want: Tensor, error: Tensor) -> None:
    """`actual` is `want` (float64) up to `error` of float32 arithmetic, and to one rounding to its own dtype: a whole step of it, because
    Triton's interpreter truncates to bfloat16; the smallest number where steps do not shrink any further."""
    kind = torch.finfo(actual.dtype)
    allowed = (
        error.double() * 1.01 + kind.eps * want.abs() + kind.smallest_normal * kind.eps
    )  # 1.01: a step of want + error, not of want
    excess = (actual.double() - want).abs() - allowed
    assert (excess <= 0).all(), f"off by up to {float(excess.max()):.3g} more than rounding explains"
