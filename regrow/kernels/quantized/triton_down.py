"""Triton kernel of the neuron-major down projection over rounded weights: y[m] = sum_j h[m, j] W[j].

A row of the weight belongs to a neuron, and its groups run along the outputs. So a scale differs from neuron
to neuron: it is multiplied into h, once for every group. Neurons are split over programs as in
`split_sums.py`, and within a program over its warps.

The tensor cores want adjacent terms of the sum, which are neurons, in one register, but adjacent bytes are
outputs. The outputs of a program are therefore renumbered. Each thread then reads 8 adjacent bytes of a
neuron at once, and pairs the neurons in its registers.
"""

from __future__ import annotations

from typing import Final

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

from regrow.kernels.early import begin, early
from regrow.kernels.pruned_ffn.triton import check_index
from regrow.kernels.quantized.triton import SHARED, Block, check_packed
from regrow.kernels.quantized.unpack import half, scale_and_offset
from regrow.kernels.split_sums import ADD, LARGEST_SPLITS, RESIDENT, add_partials, blocks, check

WARPS: Final = 4
NEURONS: Final = 32  # of a warp, in a loop step


@triton.jit  # type: ignore[untyped-decorator]
def renumbered(codes: tl.tensor) -> tl.tensor:
    """Moves row 8 c + t of each matrix in [WARPS, 64, NEURONS] to row 8 t + c."""
    warps: tl.constexpr = codes.shape[0]
    neurons: tl.constexpr = codes.shape[2]
    apart = tl.permute(tl.reshape(codes, (warps, 8, 8, neurons)), (0, 2, 1, 3))
    return tl.reshape(apart, (warps, 64, neurons))


@triton.jit  # type: ignore[untyped-decorator]
def add_group(
    h: tl.tensor,  # [WARPS, NEURONS, ROWS] float32
    codes: tl.tensor,  # [F, groups * 64]
    factors: tl.tensor,  # [F, groups]
    neuron: tl.tensor,  # [WARPS, NEURONS] int64
    j: tl.tensor,  # [WARPS, NEURONS], their places in the sum
    end: tl.tensor,
    group: tl.tensor,
    groups: tl.tensor,
    unit: tl.tensor,
    low: tl.tensor,  # [WARPS, 64, ROWS], of the outputs in the low halves of the bytes
    high: tl.tensor,
    offsets: tl.tensor,  # [WARPS, NEURONS, ROWS], summed over the neurons at the end
    dtype: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Adds the terms of some neurons to the sums of one group of outputs, in multiples of 1 / unit."""
    wanted = j < tl.where(group < groups, end, 0)
    place = codes + (neuron * (groups * 64))[:, None, :] + (group * 64 + tl.arange(0, 64))[None, :, None]
    packed = tl.load(place, mask=wanted[:, None, :], other=0, eviction_policy="evict_first")
    packed = renumbered(packed)
    scale, offset = scale_and_offset(tl.load(factors + neuron * groups + group, mask=wanted, other=0))
    scaled = (h * (scale * unit)[:, :, None]).to(dtype)
    low = tl.dot(half(packed, False, dtype), scaled, low, input_precision="ieee")
    high = tl.dot(half(packed, True, dtype), scaled, high, input_precision="ieee")
    return low, high, offsets + h * (offset * unit)[:, :, None]


@triton.jit  # type: ignore[untyped-decorator]
def store_group(
    partial: tl.tensor,
    low: tl.tensor,
    high: tl.tensor,
    offsets: tl.tensor,
    group: tl.tensor,
    row: tl.tensor,  # [ROWS] int64
    rows: tl.tensor,
    outputs: tl.tensor,
    unit: tl.tensor,
) -> None:
    """Writes the sums of one group of outputs over all warps."""
    number = tl.arange(0, 64)
    column = (group * 128 + number % 8 * 8 + number // 8)[:, None]
    place = partial + (tl.program_id(2).to(tl.int64) * rows + row)[None, :] * outputs + column
    same = tl.sum(tl.sum(offsets, axis=1), axis=0)[None, :]
    live = (row < rows)[None, :]
    tl.store(place, (tl.sum(low, axis=0) + same) / unit, mask=live & (column < outputs))
    tl.store(place + 64, (tl.sum(high, axis=0) + same) / unit, mask=live & (column + 64 < outputs))


@triton.jit(do_not_specialize=["rows"])  # type: ignore[untyped-decorator]
def partial_down(
    h: tl.tensor,  # [M, k]
    codes: tl.tensor,  # [F, groups * 64]
    factors: tl.tensor,  # [F, groups]
    index: tl.tensor,  # [k], or None for all neurons
    partial: tl.tensor,  # [splits, M, D] float32
    rows: tl.tensor,  # M
    neurons: tl.tensor,  # k
    groups: tl.tensor,
    outputs: tl.tensor,  # D
    share: tl.tensor,  # neurons of a split
    h_stride: tl.tensor,
    unit: tl.tensor,
    ROWS: tl.constexpr,
    GROUPS: tl.constexpr,  # of a program: 1 or 2
    WARPS: tl.constexpr,
    NEURONS: tl.constexpr,
    STAGES: tl.constexpr,
    EARLY: tl.constexpr,
) -> None:
    """Computes one split's partial sums of GROUPS groups of outputs, for ROWS rows of h.

    The index of the next step is loaded one step ahead, as in `partial_dot`.
    """
    begin(EARLY)
    dtype: tl.constexpr = h.dtype.element_ty
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS).to(tl.int64)
    group = tl.program_id(1) * GROUPS
    start = tl.program_id(2) * share
    end = tl.minimum(start + share, neurons)
    mine = tl.arange(0, WARPS)[:, None] * NEURONS + tl.arange(0, NEURONS)[None, :]
    low = tl.zeros((WARPS, 64, ROWS), tl.float32)
    high = tl.zeros((WARPS, 64, ROWS), tl.float32)
    offsets = tl.zeros((WARPS, NEURONS, ROWS), tl.float32)
    second_low = tl.zeros((WARPS, 64, ROWS), tl.float32)
    second_high = tl.zeros((WARPS, 64, ROWS), tl.float32)
    second_offsets = tl.zeros((WARPS, NEURONS, ROWS), tl.float32)
    neuron = (start + mine).to(tl.int64)
    if index is not None:
        neuron = tl.load(index + start + mine, mask=start + mine < end, other=0).to(tl.int64)
    for first in tl.range(start, end, WARPS * NEURONS, num_stages=STAGES):
        j = first + mine
        values = tl.load(
            h + row[None, None, :] * h_stride + j[:, :, None],
            mask=(row < rows)[None, None, :] & (j < end)[:, :, None],
            other=0.0,
        ).to(tl.float32)
        low, high, offsets = add_group(
            values, codes, factors, neuron, j, end, group, groups, unit, low, high, offsets, dtype
        )
        if GROUPS == 2:
            second_low, second_high, second_offsets = add_group(
                values, codes, factors, neuron, j, end, group + 1, groups, unit, second_low, second_high,
                second_offsets, dtype,
            )  # fmt: skip
        j += WARPS * NEURONS
        neuron = j.to(tl.int64)
        if index is not None:
            neuron = tl.load(index + j, mask=j < end, other=0).to(tl.int64)
    store_group(partial, low, high, offsets, group, row, rows, outputs, unit)
    if GROUPS == 2:
        store_group(partial, second_low, second_high, second_offsets, group + 1, row, rows, outputs, unit)


def down_block(rows: int, size: int = 2) -> Block:
    """Chooses the block sizes of `partial_down` for elements of h of `size` bytes.

    Up to 8 rows, a program computes two groups, so that 128 adjacent bytes of a neuron are read. With more
    rows, the sums of two groups would not fit into the registers.
    """
    padded, groups = (8, 2) if rows <= 8 else (16, 1)
    stage = WARPS * NEURONS * (groups * (64 + 4) + padded * size)
    return Block(padded, 128 * groups, max(2, min(4, SHARED // stage + 1)))


def down_workspace(rows: int, neurons: int, outputs: int) -> tuple[int, int, int]:
    """Returns the shape [splits, M, D] of the float32 workspace of `quantized_down` for k = `neurons`.

    There are as many splits as run on the GPU at once. They share the neurons evenly, in units of 16.
    """
    size = down_block(rows)
    programs = blocks(rows, size.rows) * blocks(outputs, size.outputs)
    steps = blocks(neurons, WARPS * NEURONS)
    return min(max(1, RESIDENT // programs), LARGEST_SPLITS, steps), rows, outputs


@torch.library.custom_op("regrow::quantized_down", mutates_args=("workspace", "out"))
def quantized_down(
    h: Tensor,
    codes: Tensor,
    factors: Tensor,
    unit: float,
    index: Tensor | None,
    bias: Tensor | None,
    workspace: Tensor,
    out: Tensor,
) -> None:
    """Computes out [M, D] = sum_i h[:, i] W[I_i] + bias, where I = index [k], or all neurons.

    h is [M, k] with 1 <= M <= 64. `codes`, `factors` and `unit` are a `PackedWeight` [F, D] of 4 bits.
    `workspace` is float32 with shape `down_workspace(M, k, D)`. h times a scale is rounded to the dtype of h,
    sums are float32, and the result is rounded once. The same input gives the same output bit for bit. Rows
    of h may have any stride; 16-byte loads need strides, D and k that are multiples of 16.
    """
    launch_down(h, codes, factors, unit, index, bias, workspace, out)


def launch_down(
    h: Tensor,
    codes: Tensor,
    factors: Tensor,
    unit: float,
    index: Tensor | None,
    bias: Tensor | None,
    workspace: Tensor,
    out: Tensor,
    sizes: Block | None = None,
) -> None:
    """Launches the kernels of `quantized_down`. `sizes` overrides the block sizes, for tests."""
    name = "quantized_down"
    check(name, h, {}, {"bias": bias}, out)
    (rows, neurons), outputs = h.shape, out.shape[1]
    check_packed(name, codes, factors, len(codes), outputs, 4)
    if index is None:
        assert len(codes) == neurons, f"{name}: h has {neurons} neurons, but the weight {len(codes)}"
    else:
        check_index(name, index)
        assert len(index) == neurons, f"{name}: h has {neurons} neurons, but the index {len(index)}"
    assert bias is None or bias.shape == (outputs,), f"{name}: bias is [{outputs}]"
    assert len(out) == rows, f"{name}: out is [{rows}, D], not {list(out.shape)}"
    assert workspace.dtype == torch.float32, f"{name}: the workspace is float32, not {workspace.dtype}"
    assert workspace.is_contiguous(), f"{name}: the workspace is contiguous"
    assert workspace.shape[1:] == out.shape, (
        f"{name}: the workspace is [splits, {rows}, {outputs}], not {list(workspace.shape)}"
    )
    size, splits = sizes or down_block(rows, h.element_size()), len(workspace)
    share = blocks(blocks(neurons, splits), 16) * 16
    partial_down[blocks(rows, size.rows), blocks(outputs, size.outputs), splits](
        h, codes, factors, index, workspace, rows, neurons, factors.shape[1], outputs, share, h.stride(0),
        unit, size.rows, size.outputs // 128, WARPS, NEURONS, size.stages, num_warps=WARPS, **early(h.device),
    )  # fmt: skip
    add_partials[blocks(outputs, ADD), rows](
        workspace, bias, out, rows, outputs, out.stride(0), SPLITS=splits, OUTPUTS=ADD, num_warps=2,
        **early(h.device),
    )  # fmt: skip
