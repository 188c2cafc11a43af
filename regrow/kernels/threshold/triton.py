"""Finds the inputs of a linear layer that exceed a threshold over a batch, in one kernel instead of a dozen.

For TEAL (arXiv 2408.14690) and WINA (arXiv 2505.19427).
"""

from __future__ import annotations

from typing import Final

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

ROWS, INPUTS = 8, 256  # loaded by a program at once: for 2-byte elements, 16 bytes per thread and row
WARPS: Final = 4


@torch.library.custom_op("regrow::exceeding", mutates_args=("measured", "keep"))
def exceeding(
    x: Tensor,
    slot: Tensor,
    norms: Tensor | None,
    threshold: float,
    abs_mean: bool,
    weights: int,
    measured: Tensor,
    keep: Tensor,
) -> None:
    """Writes to keep [in] bool whether the mean of |x_i| of x [T, in], times `norms`, exceeds `threshold`.

    The mean is over the tokens whose `slot` [T] int64 is not negative. With `abs_mean`, the absolute value of
    the mean of x_i is compared instead. `norms` [in] float32 may be None. Adds `weights` times the number of
    kept inputs to `measured` [] int64. Sums are float32. Tokens may have any stride. Raises ValueError if the
    inputs of a token, slot, norms or keep are not contiguous.
    """
    if (
        x.stride(-1) != 1
        or not all(tensor.is_contiguous() for tensor in (slot, keep))
        or (norms is not None and not norms.is_contiguous())
    ):
        raise ValueError("the inputs of a token, slot, norms and keep have to be adjacent in memory")
    tokens, inputs = x.shape
    retain[(triton.cdiv(inputs, INPUTS),)](
        x, slot, norms, measured, keep, tokens, inputs, x.stride(0), threshold, weights, abs_mean, ROWS,
        INPUTS, num_warps=WARPS,
    )  # fmt: skip


@triton.jit(  # type: ignore[untyped-decorator]
    do_not_specialize=["tokens", "weights"], do_not_specialize_on_alignment=["measured"]
)
def retain(
    x: tl.tensor, slot: tl.tensor, norms: tl.tensor, measured: tl.tensor, keep: tl.tensor,
    tokens: tl.tensor, inputs: tl.tensor, x_token: tl.tensor, threshold: tl.tensor, weights: tl.tensor,
    ABS_MEAN: tl.constexpr, ROWS: tl.constexpr, INPUTS: tl.constexpr,
) -> None:  # fmt: skip
    """Decides which of INPUTS inputs are kept."""
    column = tl.program_id(0) * INPUTS + tl.arange(0, INPUTS)
    inside = column < inputs
    total = tl.zeros((ROWS, INPUTS), tl.float32)
    live = tl.zeros((ROWS,), tl.int32)
    for first in range(0, tokens, ROWS):
        token = first + tl.arange(0, ROWS)
        counted = tl.load(slot + token, mask=token < tokens, other=-1) >= 0
        place = x + token.to(tl.int64)[:, None] * x_token + column[None, :]
        value = tl.load(place, mask=counted[:, None] & inside[None, :], other=0.0).to(tl.float32)
        total += value if ABS_MEAN else tl.abs(value)
        live += counted.to(tl.int32)
    score = tl.abs(tl.sum(total, axis=0) / tl.maximum(tl.sum(live, axis=0), 1).to(tl.float32))
    if norms is not None:
        score *= tl.load(norms + column, mask=inside, other=0.0)
    kept = (score > threshold) & inside
    tl.store(keep + column, kept, mask=inside)
    # Integers are added, so the order of the atomic additions does not change the sum.
    tl.atomic_add(measured, tl.sum(kept.to(tl.int64), axis=0) * weights)
