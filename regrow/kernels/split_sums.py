"""Matmuls with the weight rows that an index selects: y[m] = sum_i x[m, i] W[index[i]], split over programs.

Rows that are not selected are not read. Each split writes float32 partial sums to a workspace, and a second
kernel adds them up in a fixed order. So the same input gives the same output bit for bit, which atomic
additions would not guarantee. A single row of x is padded for the tensor cores like any other number of rows:
on an H200 that is faster than a sum of elementwise products (results/h200/sums.log).

The index of the next step is loaded one step ahead and carried through the loop. If it were loaded in the
step that uses it, Triton would spend half of its pipeline's depth on that load, and fewer bytes of the weight
would be in flight.
"""

from __future__ import annotations

import functools
from typing import Any, Final, NamedTuple, final

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

from regrow.kernels.early import begin, early

LARGEST_ROWS: Final = 64  # rows of x; up to this many, reading the weight limits the speed
DTYPES: Final = ("torch.float16", "torch.bfloat16", "torch.float32")
PROCESSORS: Final = 132  # multiprocessors of an H100 or H200
H100_SHARED: Final = 227 * 1024  # bytes
LARGEST_SPLITS: Final = 32  # `add_partials` is unrolled over the splits


@final
class Tile(NamedTuple):
    """Block sizes of one program's loop step, and its pipeline depth."""

    rows: int  # of x: a power of two from 16 on, or 1 for the sparse FFN's kernel without tensor cores
    inputs: int  # terms of the sums
    outputs: int
    stages: int
    warps: int = 4


@triton.jit  # type: ignore[untyped-decorator]
def bounds(
    inputs: tl.tensor, share: tl.tensor, count: tl.tensor
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """Returns start and end of a program's split, and the limits below which x and weight rows may be read.

    With a `count`, only the device knows the number of terms. They are divided among the splits here, in
    units of 16, so that x is loaded 16 bytes at a time. x is padded with zeros up to the next multiple of 16.
    Weight rows beyond the count are not read.
    """
    split = tl.program_id(1)
    if count is None:
        start = split * share
        end = tl.minimum(start + share, inputs)
        filled = inputs
        readable = inputs
    else:
        total = tl.load(count)
        own = tl.cdiv(total, 16 * tl.num_programs(1)) * 16
        start = split * own
        end = tl.multiple_of(tl.minimum(start + own, tl.cdiv(total, 16) * 16), 16)
        filled = end
        readable = tl.minimum(end, total)
    return start, end, filled, readable


@triton.jit(do_not_specialize=["rows"])  # type: ignore[untyped-decorator]
def partial_dot(
    x: tl.tensor,  # [M, inputs]
    weight: tl.tensor,  # [any, outputs]
    index: tl.tensor,  # [inputs]
    count: tl.tensor,  # [1] number of inputs, or None for all
    partial: tl.tensor,  # [splits, M, outputs] float32
    rows: tl.tensor,  # M
    inputs: tl.tensor,
    outputs: tl.tensor,
    share: tl.tensor,  # inputs of a split, a multiple of INPUTS
    x_stride: tl.tensor,
    weight_stride: tl.tensor,
    ROWS: tl.constexpr,
    INPUTS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    STAGES: tl.constexpr,
    EARLY: tl.constexpr,
) -> None:
    """Computes one split's partial sums of OUTPUTS outputs on tensor cores; rows of x are padded to ROWS."""
    begin(EARLY)
    split = tl.program_id(1)
    row = tl.arange(0, ROWS).to(tl.int64)[:, None]
    column = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)[None, :]
    start, end, filled, readable = bounds(inputs, share, count)
    i = start + tl.arange(0, INPUTS)
    chosen = tl.load(index + i, mask=i < filled, other=0)
    total = tl.zeros((ROWS, OUTPUTS), tl.float32)
    for first in tl.range(start, end, INPUTS, num_stages=STAGES):
        i = first + tl.arange(0, INPUTS)
        values = tl.load(
            x + row * x_stride + i[None, :], mask=(row < rows) & (i[None, :] < filled), other=0.0
        )
        terms = tl.load(
            weight + chosen.to(tl.int64)[:, None] * weight_stride + column,
            mask=(i < readable)[:, None] & (column < outputs),
            other=0.0,
            eviction_policy="evict_first",
        )
        chosen = tl.load(index + i + INPUTS, mask=i + INPUTS < filled, other=0)
        total = tl.dot(values, terms, total, input_precision="ieee")
    place = (split.to(tl.int64) * rows + row) * outputs + column
    tl.store(partial + place, total, mask=(row < rows) & (column < outputs))


@triton.jit(do_not_specialize=["rows"])  # type: ignore[untyped-decorator]
def add_partials(
    partial: tl.tensor,  # [splits, M, outputs] float32
    bias: tl.tensor,  # [outputs] or None
    out: tl.tensor,  # [M, outputs]
    rows: tl.tensor,
    outputs: tl.tensor,
    out_stride: tl.tensor,
    SPLITS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    EARLY: tl.constexpr,
) -> None:
    """Adds up the splits in ascending order, and the bias last."""
    begin(EARLY)
    column = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    row = tl.program_id(1).to(tl.int64)
    inside = column < outputs
    total = tl.zeros((OUTPUTS,), tl.float32)
    for split in tl.static_range(SPLITS):
        total += tl.load(partial + (split * rows + row) * outputs + column, mask=inside, other=0.0)
    if bias is not None:
        total += tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * out_stride + column, total.to(out.dtype.element_ty), mask=inside)


ADD: Final = 256  # outputs per program of `add_partials`, with two warps: 16 bytes per thread


def blocks(total: int, size: int) -> int:
    """Returns the number of blocks of `size` that cover `total`."""
    return -(-total // size)


def fit(largest: int, size: int) -> int:
    """Returns the power of two that covers `size`, at least 16 (for tensor cores) and at most `largest`."""
    return min(largest, max(16, 1 << (size - 1).bit_length()))


# Programs that run on a GPU at once, two per multiprocessor. Work is cut into about as many equal pieces, so
# that all of them run from start to end and none is left over for a second wave.
RESIDENT: Final = 2 * PROCESSORS


@functools.cache
def most_shared(device: torch.device) -> int:
    """Returns the bytes of shared memory that a block may use.

    227 KB on an H100, 163 KB on an A100, 99 KB on cards of the same generations without HBM.
    """
    if device.type != "cuda":
        return H100_SHARED
    properties: Any = torch.cuda.get_device_properties(device)
    return int(properties.shared_memory_per_block_optin)


def depth(stage: int, rows: int, shared: int) -> int:
    """Returns the pipeline stages of `stage` bytes that leave room for two programs per multiprocessor.

    Two programs of 108 KB fit into the 227 KB of an H100. Triton allocates one buffer fewer than there are
    stages, except with 64 rows, where Hopper's tensor cores read the buffers directly. More than 6 stages
    gain nothing: bandwidth times latency of an H200 is about 30 KB per multiprocessor.
    """
    return max(1, min(6, min(108 * 1024, shared) // stage + (rows <= 32)))


def partial_tile(rows: int, inputs: int, outputs: int, size: int = 2, shared: int = H100_SHARED) -> Tile:
    """Chooses the block sizes of `partial_dot` for elements of `size` bytes.

    A step reads 16 KB of the weight: 64 rows of 256 bytes. Four stages, and eight warps up to 32 rows, were
    the fastest of those tried on an H200 (results/h200/tiles.log). With float32 and eight warps, two programs
    fit into the registers of an A100's multiprocessor up to 16 rows only.
    """
    padded, terms, columns = fit(LARGEST_ROWS, rows), fit(128 // size, inputs), fit(128, outputs)
    stages = min(4, depth(size * terms * (padded + columns), rows, shared))
    return Tile(padded, terms, columns, stages, 8 if rows * size <= 64 else 4)


def workspace_shape(rows: int, inputs: int, outputs: int) -> tuple[int, int, int]:
    """Returns the shape [splits, M, D] of the float32 workspace of `down_gather` and `kept_linear`.

    `inputs` is k for `down_gather`, and the number of all inputs for `kept_linear`. The splits are few enough
    that all programs run on the GPU at once (or at most three, if the outputs alone fill the GPU). Among
    those counts the smallest that loads the GPU most evenly is chosen.
    """
    tile, programs = partial_tile(rows, inputs, outputs), RESIDENT
    columns = blocks(outputs, tile.outputs)
    most = min(max(programs, 3 * columns) // columns, LARGEST_SPLITS, blocks(inputs, tile.inputs))
    splits = max(
        range(1, most + 1), key=lambda count: (count * columns / blocks(count * columns, programs), -count)
    )
    return splits, rows, outputs


def check(
    name: str, x: Tensor, weights: dict[str, Tensor], biases: dict[str, Tensor | None], out: Tensor
) -> None:
    """Asserts the shapes, dtypes and strides that all kernels require."""
    assert x.dim() == 2, f"{name}: x is [M, inputs], not {list(x.shape)}"
    assert 1 <= x.shape[0] <= LARGEST_ROWS, f"{name}: x has 1 to {LARGEST_ROWS} rows, not {x.shape[0]}"
    assert str(x.dtype) in DTYPES, f"{name}: x is one of {', '.join(DTYPES)}, not {x.dtype}"
    for key, tensor in {"x": x, "out": out, **weights}.items():
        assert tensor.dtype == x.dtype, f"{name}: {key} has the dtype of x, {x.dtype}, not {tensor.dtype}"
        assert tensor.dim() == 2, f"{name}: {key} has two dimensions, not {tensor.dim()}"
        assert tensor.shape[1] == 1 or tensor.stride(1) == 1, (
            f"{name}: the elements of a row of {key} are contiguous"
        )
    for key, bias in biases.items():
        assert bias is None or bias.is_contiguous(), f"{name}: {key} is contiguous"
        assert bias is None or bias.dtype == x.dtype, f"{name}: {key} has the dtype of x, {x.dtype}"


def sum_rows(
    name: str,
    x: Tensor,
    weight: Tensor,
    index: Tensor,
    bias: Tensor | None,
    workspace: Tensor,
    out: Tensor,
    *,
    count: Tensor | None = None,
    tile: Tile | None = None,
) -> None:
    """Computes out [M, D] from x [M, inputs] with both kernels.

    The shape of the workspace sets the number of splits. With a `count` [1] int32, only the first `count`
    inputs are used. x must be zero from there to the next multiple of 16; what x and `index` hold beyond it
    does not matter. `tile` is for tests.
    """
    check(name, x, {"weight": weight}, {"bias": bias}, out)
    (rows, inputs), outputs = x.shape, weight.shape[1]
    assert index.shape == (inputs,), f"{name}: x has {inputs} inputs, but index is {list(index.shape)}"
    assert index.is_contiguous(), f"{name}: index is contiguous"
    assert bias is None or bias.shape == (outputs,), f"{name}: bias is [{outputs}]"
    assert out.shape == (rows, outputs), f"{name}: out is [{rows}, {outputs}], not {list(out.shape)}"
    assert count is None or count.dtype == torch.int32, f"{name}: the count is int32"
    assert workspace.dtype == torch.float32, f"{name}: the workspace is float32, not {workspace.dtype}"
    assert workspace.is_contiguous(), f"{name}: the workspace is contiguous"
    assert workspace.shape[1:] == out.shape, (
        f"{name}: the workspace is [splits, {rows}, {outputs}], not {list(workspace.shape)}"
    )
    tile, splits = (
        tile or partial_tile(rows, inputs, outputs, x.element_size(), most_shared(x.device)),
        workspace.shape[0],
    )
    share = blocks(blocks(inputs, splits), tile.inputs) * tile.inputs
    grid = blocks(outputs, tile.outputs), splits
    partial_dot[grid](
        x, weight, index, count, workspace, rows, inputs, outputs, share, x.stride(0), weight.stride(0),
        tile.rows, tile.inputs, tile.outputs, tile.stages, num_warps=tile.warps, **early(x.device),
    )  # fmt: skip
    add_partials[blocks(outputs, ADD), rows](
        workspace,
        bias,
        out,
        rows,
        outputs,
        out.stride(0),
        SPLITS=splits,
        OUTPUTS=ADD,
        num_warps=2,
        **early(x.device),
    )
