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

from regrow.kernels.early import begin, early
from regrow.kernels.split_sums import blocks, sum_rows

ROWS, INPUTS = 8, 256  # loaded by a program at once: for 2-byte elements, 16 bytes per thread and row
WARPS = 4
# A program publishes the number of inputs that it keeps, and the number of the launch.
COUNTS, LAUNCHES = 1 << 10, 1 << 20  # more than each of them; their product fits in an int32


def gather_workspace(inputs: int) -> int:
    """Returns the elements of `counts`, the int32 workspace of both gathering operators."""
    return blocks(inputs, INPUTS) + 1


@torch.library.custom_op("regrow::gather_inputs", mutates_args=("kept", "index", "count", "counts"))
def gather_inputs(
    x: Tensor, keep: Tensor, kept: Tensor, index: Tensor, count: Tensor, counts: Tensor
) -> None:
    """Gathers the columns of x [T, in] for which `keep` [in] bool is set into the first columns of `kept`.

    `kept` is [T, room] with room for `in` inputs, padded to a multiple of 16. The original columns are
    written to `index` [room] int32 in ascending order, and their number to `count` [1] int32. `kept` is
    zeroed from the count to the next multiple of 16, and left unchanged beyond. `counts` int32 has
    `gather_workspace(in)` elements, which are zero before the first call and only change in such calls, one
    after another. Raises ValueError for other shapes, dtypes or strides.
    """
    if keep.shape != x.shape[1:] or keep.dtype != torch.bool or not keep.is_contiguous():
        raise ValueError(f"keep is [{x.shape[1]}] bool and contiguous")
    _gather(x, keep, None, None, 0.0, False, 0, None, kept, index, count, counts)


@torch.library.custom_op(
    "regrow::gather_exceeding", mutates_args=("measured", "kept", "index", "count", "counts")
)
def gather_exceeding(
    x: Tensor,
    slot: Tensor,
    norms: Tensor | None,
    threshold: float,
    abs_mean: bool,
    weights: int,
    measured: Tensor,
    kept: Tensor,
    index: Tensor,
    count: Tensor,
    counts: Tensor,
) -> None:
    """`gather_inputs` of the inputs of x [T, in] whose score over the batch exceeds `threshold`.

    The score of input i is the mean of |x_i|, times `norms` [in] float32 if given. The mean is over the
    tokens whose `slot` [T] int64 is not negative. With `abs_mean`, the absolute value of the mean of x_i is
    compared instead. Adds `weights` times the number of kept inputs to `measured` [] int64. Sums are float32.
    Raises ValueError for other shapes, dtypes or strides.
    """
    if not slot.is_contiguous() or (norms is not None and not norms.is_contiguous()):
        raise ValueError("slot and norms have to be adjacent in memory")
    _gather(x, None, slot, norms, threshold, abs_mean, weights, measured, kept, index, count, counts)


def _gather(
    x: Tensor,
    keep: Tensor | None,
    slot: Tensor | None,
    norms: Tensor | None,
    threshold: float,
    abs_mean: bool,
    weights: int,
    measured: Tensor | None,
    kept: Tensor,
    index: Tensor,
    count: Tensor,
    counts: Tensor,
) -> None:
    if x.stride(-1) != 1 or kept.stride(-1) != 1 or not (index.is_contiguous() and counts.is_contiguous()):
        raise ValueError("the inputs of a token, index and counts have to be adjacent in memory")
    (tokens, inputs), room = x.shape, kept.shape[1]
    if len(kept) != tokens or index.shape != (room,) or room < blocks(inputs, 16) * 16:
        raise ValueError(
            f"kept and index have room for {inputs} inputs, filled up to a multiple of 16, and kept for "
            f"{tokens} tokens"
        )
    if counts.shape != (gather_workspace(inputs),):
        raise ValueError(f"counts is [{gather_workspace(inputs)}], not {list(counts.shape)}")
    if kept.dtype != x.dtype or any(one.dtype != torch.int32 for one in (index, count, counts)):
        raise ValueError("index, count and counts are int32, kept has the dtype of x")
    programs = blocks(inputs, INPUTS)
    side_by_side[(programs,)](
        x, keep, slot, norms, measured, kept, index, count, counts, tokens, inputs, x.stride(0),
        kept.stride(0), threshold, weights, abs_mean, ROWS, INPUTS, triton.next_power_of_2(programs),
        COUNTS, LAUNCHES, num_warps=WARPS, **early(x.device),
    )  # fmt: skip


@triton.jit  # type: ignore[untyped-decorator]
def exceeds(
    x: tl.tensor, slot: tl.tensor, norms: tl.tensor, tokens: tl.tensor, x_token: tl.tensor,
    threshold: tl.tensor, column: tl.tensor, inside: tl.tensor, ABS_MEAN: tl.constexpr, ROWS: tl.constexpr,
    INPUTS: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Returns which of INPUTS inputs have a score above the threshold."""
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
    return (score > threshold) & inside


@triton.jit  # type: ignore[untyped-decorator]
def kept_before(
    counts: tl.tensor, launch: tl.tensor, mine: tl.tensor, BLOCKS: tl.constexpr, COUNTS: tl.constexpr
) -> tl.tensor:
    """Publishes the number of inputs that this program keeps, and returns their number in those before it.

    A program waits only for programs with smaller numbers, which a GPU starts first. Entries of earlier
    launches hold another launch number. The last program stores the new one, when all others have published,
    and thus read the old one: the barrier keeps a warp from publishing before all warps have read it.
    """
    block, last = tl.program_id(0), tl.num_programs(0)
    tl.debug_barrier()
    tl.atomic_xchg(counts + block, launch * COUNTS + mine, sem="release")
    other = tl.arange(0, BLOCKS)
    earlier = other < block
    seen = tl.load(counts + other, mask=earlier, other=0, volatile=True)
    while tl.sum((earlier & (seen // COUNTS != launch)).to(tl.int32), axis=0) > 0:
        seen = tl.load(counts + other, mask=earlier, other=0, volatile=True)
    if block == last - 1:
        tl.store(counts + last, launch)
    return tl.sum(tl.where(earlier, seen % COUNTS, 0), axis=0)


@triton.jit(  # type: ignore[untyped-decorator]
    do_not_specialize=["tokens", "weights"], do_not_specialize_on_alignment=["measured"]
)
def side_by_side(
    x: tl.tensor, keep: tl.tensor, slot: tl.tensor, norms: tl.tensor, measured: tl.tensor, kept: tl.tensor,
    index: tl.tensor, count: tl.tensor, counts: tl.tensor, tokens: tl.tensor, inputs: tl.tensor,
    x_token: tl.tensor, kept_token: tl.tensor, threshold: tl.tensor, weights: tl.tensor,
    ABS_MEAN: tl.constexpr, ROWS: tl.constexpr, INPUTS: tl.constexpr, BLOCKS: tl.constexpr,
    COUNTS: tl.constexpr, LAUNCHES: tl.constexpr, EARLY: tl.constexpr,
) -> None:  # fmt: skip
    """Gathers the kept ones of INPUTS inputs of all rows. Without `keep`, it decides which to keep."""
    begin(EARLY)
    launch = (tl.load(counts + tl.num_programs(0)) + 1) % LAUNCHES
    column = tl.program_id(0) * INPUTS + tl.arange(0, INPUTS)
    inside = column < inputs
    if keep is None:
        wanted = exceeds(x, slot, norms, tokens, x_token, threshold, column, inside, ABS_MEAN, ROWS, INPUTS)
    else:
        wanted = tl.load(keep + column, mask=inside, other=0).to(tl.int32) != 0
    flag = wanted.to(tl.int32)
    mine = tl.sum(flag, axis=0)
    before = kept_before(counts, launch, mine, BLOCKS, COUNTS)
    target = before + tl.cumsum(flag, axis=0) - 1
    total = before + mine
    last = tl.program_id(0) == tl.num_programs(0) - 1
    beyond = total + tl.arange(0, 16)
    missing = beyond < tl.where(last, tl.cdiv(total, 16) * 16, 0)
    for first in range(0, tokens, ROWS):
        token = first + tl.arange(0, ROWS)
        there = (token < tokens)[:, None]
        # Dropped inputs are loaded too, because loads masked by the flags would be of one element each.
        value = tl.load(
            x + token.to(tl.int64)[:, None] * x_token + column[None, :],
            mask=there & inside[None, :],
            other=0.0,
        )
        row = kept + token.to(tl.int64)[:, None] * kept_token
        tl.store(row + target[None, :], value, mask=there & wanted[None, :])
        tl.store(
            row + beyond[None, :], tl.zeros((ROWS, 16), kept.dtype.element_ty), mask=there & missing[None, :]
        )
    tl.store(index + target, column, mask=wanted)
    if last:
        tl.store(count, total)
    if keep is None:
        # Integers are added, so the order of the atomic additions does not change the sum.
        tl.atomic_add(measured, mine.to(tl.int64) * weights)


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
