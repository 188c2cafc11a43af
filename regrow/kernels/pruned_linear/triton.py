"""Linears that read only the inputs that are kept (TEAL, arXiv 2408.14690; WINA, arXiv 2505.19427), from input-major weights.

Input-major, [in, out], because what an input contributes is then one contiguous row, and an input that is dropped a row that is not read.
Where half of the inputs are dropped, a sum that goes over all of them has half of its loads in flight. So the inputs kept are first written
side by side, with an index and their number, and the sum goes over the index. The number stays on the device: nothing waits for it.
"""

from __future__ import annotations

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

from regrow.kernels.split_sums import blocks, sum_rows

ROWS, INPUTS = 8, 256  # that a program moves
FLAGS = 8192  # that a program counts at once
WARPS = 4


@torch.library.custom_op("regrow::gather_inputs", mutates_args=("kept", "index", "count"))
def gather_inputs(x: Tensor, keep: Tensor, kept: Tensor, index: Tensor, count: Tensor) -> None:
    """Writes the columns of x [T, in] where `keep` [in] bool holds, side by side, to `kept` [T, in or more].

    `index` int32, as long as a row of kept, says where they were, in ascending order; `count` [1] int32 how many they are.

    From the count to the next multiple of 16 `kept` is filled with zeros, as far as it reaches; what is beyond is left as it is.
    """
    if (
        x.stride(-1) != 1
        or kept.stride(-1) != 1
        or not all(tensor.is_contiguous() for tensor in (keep, index))
    ):
        raise ValueError("the inputs of a token, keep and index have to be adjacent in memory")
    (tokens, inputs), room = x.shape, kept.shape[1]
    if (
        keep.shape != (inputs,)
        or len(kept) != tokens
        or index.shape != (room,)
        or room < blocks(inputs, 16) * 16
    ):
        raise ValueError(
            f"keep is [{inputs}], and kept and index have room for {inputs} inputs, filled up to a multiple of 16"
        )
    if (
        keep.dtype != torch.bool
        or index.dtype != torch.int32
        or count.dtype != torch.int32
        or kept.dtype != x.dtype
    ):
        raise ValueError("keep is bool, index and count are int32, kept has the dtype of x")
    side_by_side[blocks(inputs, INPUTS), blocks(tokens, ROWS)](
        x, keep, kept, index, count, tokens, inputs, x.stride(0), kept.stride(0), ROWS, INPUTS, FLAGS, num_warps=WARPS,
    )  # fmt: skip


@triton.jit(do_not_specialize=["tokens"])  # type: ignore[untyped-decorator]
def side_by_side(
    x: tl.tensor, keep: tl.tensor, kept: tl.tensor, index: tl.tensor, count: tl.tensor,
    tokens: tl.tensor, inputs: tl.tensor, x_token: tl.tensor, kept_token: tl.tensor,
    ROWS: tl.constexpr, INPUTS: tl.constexpr, FLAGS: tl.constexpr,
) -> None:  # fmt: skip
    """Every program counts for itself what is kept before its own inputs, so that none waits for another."""
    start = tl.program_id(0) * INPUTS
    earlier = tl.zeros((FLAGS,), tl.int32)
    for first in range(0, start, FLAGS):
        place = first + tl.arange(0, FLAGS)
        earlier += tl.load(keep + place, mask=place < start, other=0).to(tl.int32)
    before = tl.sum(earlier, axis=0)
    column = start + tl.arange(0, INPUTS)
    mine = tl.load(keep + column, mask=column < inputs, other=0).to(tl.int32)
    wanted = mine != 0
    target = before + tl.cumsum(mine, axis=0) - 1
    token = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    inside = (token < tokens)[:, None]
    # What is dropped is loaded too, though not stored: loads that follow the flags would be of one number each.
    value = tl.load(
        x + token.to(tl.int64)[:, None] * x_token + column[None, :],
        mask=inside & (column < inputs)[None, :],
        other=0.0,
    )
    row = kept + token.to(tl.int64)[:, None] * kept_token
    tl.store(row + target[None, :], value, mask=inside & wanted[None, :])
    total = before + tl.sum(mine, axis=0)
    if tl.program_id(0) == tl.num_programs(0) - 1:
        beyond = total + tl.arange(0, 16)
        missing = beyond < tl.cdiv(total, 16) * 16
        tl.store(
            row + beyond[None, :], tl.zeros((ROWS, 16), kept.dtype.element_ty), mask=inside & missing[None, :]
        )
    if tl.program_id(1) == 0:
        tl.store(index + target, column, mask=wanted)
        if tl.program_id(0) == tl.num_programs(0) - 1:
            tl.store(count, total)


@torch.library.custom_op("regrow::kept_linear", mutates_args=("workspace", "out"))
def kept_linear(
    kept: Tensor,
    weight_t: Tensor,
    index: Tensor,
    count: Tensor,
    bias: Tensor | None,
    workspace: Tensor,
    out: Tensor,
) -> None:
    """out [M, out] = sum over i < count of kept[:, i] weight_t[index[i]] + bias, for weight_t [in, out] and the `kept` [M, in or more],
    `index` and `count` of `gather_inputs`.

    `workspace` is float32 of `workspace_shape(M, in, out)`. Sums are float32, the result is rounded once; the same input gives the same
    output bit for bit. 1 <= M <= 64. Rows may have any stride; 16-byte loads need row strides and `out` that are multiples of 16.
    """
    assert index.dtype == torch.int32, f"kept_linear: index is int32, not {index.dtype}"
    sum_rows("kept_linear", kept, weight_t, index, bias, workspace, out, count=count)
