"""Sums over rows of a weight that an index chooses, y[m] = sum_i x[m, i] W[index[i]], split over many programs.

Rows that are not chosen are not read. Each split writes float32 partial sums to a workspace and a second kernel adds
them up in a fixed order, so that the same input gives the same output bit for bit, which atomic additions would not.
A single row of x is padded for the matrix units as any other number is: on an H200 that is faster than a sum of
products without them (results/h200/sums.log).

The index of the next step is loaded one step ahead and carried through the loop: were it loaded in the step that uses
it, Triton would spend half of its pipeline's depth on that load, and fewer bytes of the weight would be in flight.
"""

from __future__ import annotations

import functools
from typing import Any, Final, NamedTuple, final

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

LARGEST_ROWS: Final = 64  # of x: up to there a step is bound by the bytes of the weight
DTYPES: Final = ("torch.float16", "torch.bfloat16", "torch.float32")
PROCESSORS: Final = 132  # of an H100 or H200
H100_SHARED: Final = 227 * 1024  # bytes
LARGEST_SPLITS: Final = 32  # the adding kernel is unrolled over them


@final
class Tile(NamedTuple):
    """What one program works on in one step, and how far it loads ahead."""

    rows: int  # of x, a power of two from 16; 1: a sum without matrix units, which the sparse FFN has for one row
    inputs: int  # terms of the sums
    outputs: int
    stages: int
    warps: int = 4


@triton.jit  # type: ignore[untyped-decorator]
def bounds(
    inputs: tl.tensor, share: tl.tensor, count: tl.tensor
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """The first term of a program's split, the end of its terms, and up to where x and rows of the weight may be read.

    A number of terms that the device alone knows is shared out here, in units of 16, so that x is loaded 16 bytes at once: up to the next
    multiple of 16 it is filled with zeros. No row of the weight is read beyond the count.
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
    count: tl.tensor,  # [1] how many inputs there are; None: all of them
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
) -> None:
    """The partial sums of one split for OUTPUTS outputs, on matrix units, the rows of x padded to ROWS."""
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
) -> None:
    """Adds the splits in their order, and the bias last."""
    column = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    row = tl.program_id(1).to(tl.int64)
    inside = column < outputs
    total = tl.zeros((OUTPUTS,), tl.float32)
    for split in tl.static_range(SPLITS):
        total += tl.load(partial + (split * rows + row) * outputs + column, mask=inside, other=0.0)
    if bias is not None:
        total += tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * out_stride + column, total.to(out.dtype.element_ty), mask=inside)


ADD: Final = 256  # outputs of a program of add_partials, with two warps: 16 bytes a thread


def blocks(total: int, size: int) -> int:
    """How many blocks of `size` cover `total`."""
    return -(-total // size)


def fit(largest: int, size: int) -> int:
    """The power of two, from 16 (the least a matrix unit takes) to `largest`, that covers `size` best."""
    return min(largest, max(16, 1 << (size - 1).bit_length()))


RESIDENT: Final = 2 * PROCESSORS  # programs that a GPU holds at once, two a multiprocessor
# Work is cut into about as many equal pieces, so that all run from start to end and none is left over for a second wave.


@functools.cache
def most_shared(device: torch.device) -> int:
    """Bytes of shared memory that a block may use: 227 KB on an H100, 163 on an A100, 99 on cards without HBM."""
    if device.type != "cuda":
        return H100_SHARED
    properties: Any = torch.cuda.get_device_properties(device)
    return int(properties.shared_memory_per_block_optin)


def depth(stage: int, rows: int, shared: int) -> int:
    """Pipeline stages of `stage` bytes: as many as leave room for two programs a multiprocessor.

    Two of 108 KB fit into the 227 KB of an H100. Triton keeps a buffer less than it has stages, except where Hopper's matrix units read
    the buffers themselves, which takes 64 rows. More than 6 stages are more than latency asks for: bandwidth times latency of an H200 is
    about 30 KB a multiprocessor.
    """
    return max(1, min(6, min(108 * 1024, shared) // stage + (rows <= 32)))


def partial_tile(rows: int, inputs: int, outputs: int, size: int = 2, shared: int = H100_SHARED) -> Tile:
    """For elements of `size` bytes: steps of 16 KB of weight, 64 rows of 256 bytes; four stages and, up to 32 rows, eight
    warps, the fastest of those tried on an H200 (results/h200/tiles.log). Of float32 eight warps have registers for 16
    rows only, where two programs are to run on a multiprocessor of an A100.
    """
    padded, terms, columns = fit(LARGEST_ROWS, rows), fit(128 // size, inputs), fit(128, outputs)
    stages = min(4, depth(size * terms * (padded + columns), rows, shared))
    return Tile(padded, terms, columns, stages, 8 if rows * size <= 64 else 4)


def workspace_shape(rows: int, inputs: int, outputs: int) -> tuple[int, int, int]:
    """[splits, M, D] of the float32 workspace of `down_gather` (inputs = k) and `kept_linear` (inputs = all of them).

    Of the numbers of splits that keep the GPU at once (three at most where outputs alone fill it), the least that loads it most evenly.
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
    """Asserts what all kernels ask of their operands."""
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
    """out [M, D] of x [M, inputs]: both kernels in a row. Splits are those of the workspace; `tile` is for tests.

    With a `count` [1] int32 there are only so many inputs: x is zero from there to the next multiple of 16, and what x
    and `index` hold beyond does not matter.
    """
    check(name, x, {"weight": weight}, {"bias": bias}, out)
    (rows, inputs), outputs = x.shape, weight.shape[1]
    assert index.shape == (inputs,), (
        f"{name}: x has {inputs} inputs, and {list(index.shape)} of them are chosen"
    )
    assert index.is_contiguous(), f"{name}: what chooses rows is contiguous"
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
        tile.rows, tile.inputs, tile.outputs, tile.stages, num_warps=tile.warps,
    )  # fmt: skip
    add_partials[blocks(outputs, ADD), rows](
        workspace, bias, out, rows, outputs, out.stride(0), SPLITS=splits, OUTPUTS=ADD, num_warps=2
    )
