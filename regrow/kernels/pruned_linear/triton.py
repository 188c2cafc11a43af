"""Triton kernels of linear layers that read only the weights of kept inputs.

For TEAL (arXiv 2408.14690) and WINA (arXiv 2505.19427). Weights are input-major, [in, out]: the weights of an
input are one contiguous row, and the rows of dropped inputs are not read.

A loop over all inputs would keep only half of its loads in flight if half of the inputs are dropped. So the
kept inputs are first gathered side by side, with their index and count, and the loop goes over the index. The
count stays on the device, so nothing synchronises.
"""

from __future__ import annotations

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

from regrow.kernels.split_sums import blocks, sum_rows

ROWS, INPUTS = 8, 256  # rows and inputs that a program gathers
FLAGS = 8192  # elements of `keep` that a program counts at once
WARPS = 4


@torch.library.custom_op("regrow::gather_inputs", mutates_args=("kept", "index", "count"))
def gather_inputs(x: Tensor, keep: Tensor, kept: Tensor, index: Tensor, count: Tensor) -> None:
    """Gathers the columns of x [T, in] for which `keep` [in] bool is set into the first columns of `kept`.

    `kept` is [T, room] with room for `in` inputs, padded to a multiple of 16. The original columns are
    written to `index` [room] int32 in ascending order, and their number to `count` [1] int32. `kept` is
    zeroed from the count to the next multiple of 16, and left unchanged beyond. Raises ValueError for other
    shapes, dtypes or strides.
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
            f"keep is [{inputs}], and kept and index have room for {inputs} inputs, "
            "filled up to a multiple of 16"
        )
    if (
        keep.dtype != torch.bool
        or index.dtype != torch.int32
        or count.dtype != torch.int32
        or kept.dtype != x.dtype
    ):
        raise ValueError("keep is bool, index and count are int32, kept has the dtype of x")
    side_by_side[blocks(inputs, INPUTS), blocks(tokens, ROWS)](
        x, keep, kept, index, count, tokens, inputs, x.stride(0), kept.stride(0), ROWS, INPUTS, FLAGS,
        num_warps=WARPS,
    )  # fmt: skip


@triton.jit(do_not_specialize=["tokens"])  # type: ignore[untyped-decorator]
def side_by_side(
    x: tl.tensor, keep: tl.tensor, kept: tl.tensor, index: tl.tensor, count: tl.tensor,
    tokens: tl.tensor, inputs: tl.tensor, x_token: tl.tensor, kept_token: tl.tensor,
    ROWS: tl.constexpr, INPUTS: tl.constexpr, FLAGS: tl.constexpr,
) -> None:  # fmt: skip
    """Gathers INPUTS inputs of ROWS rows.

    Every program counts the kept inputs before its own, so that no program waits for another.
    """
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
    # Dropped inputs are loaded too, because loads masked by the flags would be of one element each.
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
    """Computes out [M, out] = sum over i < count of kept[:, i] weight_t[index[i]] + bias.

    `kept` [M, room] with 1 <= M <= 64, `index` and `count` are those of `gather_inputs`; `weight_t` is
    [in, out]. `workspace` is float32 with shape `workspace_shape(M, in, out)`. Sums are float32, and the
    result is rounded once. The same input gives the same output bit for bit. Rows may have any stride;
    16-byte loads need row strides and an output width that are multiples of 16.
    """
    assert index.dtype == torch.int32, f"kept_linear: index is int32, not {index.dtype}"
    sum_rows("kept_linear", kept, weight_t, index, bias, workspace, out, count=count)
