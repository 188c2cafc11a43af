"""Operands that reveal mistakes of a kernel.

Rows have gaps. Memory that must not be read, or that must be overwritten, is NaN.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

NAN = float("nan")


@dataclass(frozen=True)
class Framed:
    """A matrix inside a larger one of NaN.

    Rows are not adjacent, and reads or writes outside of the matrix show. There are as many rows below it as
    a block may overrun.
    """

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
    """Returns `keep` of the neurons, in random order."""
    return torch.randperm(neurons, generator=torch.Generator().manual_seed(seed))[:keep]


def summed(terms: Tensor, count: int) -> Tensor:
    """Returns an error bound of a float32 sum of `count` products in any order.

    `terms` is the sum of their magnitudes. Each addition rounds once, and a multiplication that is not fused
    once more.
    """
    return (count + 1) * torch.finfo(torch.float32).eps * terms


def within(actual: Tensor, want: Tensor, error: Tensor) -> None:
    """Asserts that `actual` is `want` (float64), up to `error` and one rounding to its own dtype.

    `error` bounds the float32 arithmetic. A rounding may be a whole step of the dtype, because Triton's
    interpreter truncates to bfloat16. Below the smallest normal number, steps do not shrink any further.
    """
    kind = torch.finfo(actual.dtype)
    # The factor 1.01 accounts for a step of want + error, instead of want.
    allowed = error.double() * 1.01 + kind.eps * want.abs() + kind.smallest_normal * kind.eps
    excess = (actual.double() - want).abs() - allowed
    assert (excess <= 0).all(), f"off by up to {float(excess.max()):.3g} more than rounding explains"
