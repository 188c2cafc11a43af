"""Triton kernels of linear layers over rounded weights: dense rows, and gate and up of an FFN in one pass.

A program computes a few outputs for up to 16 rows of x. In each loop step, every warp takes another group of
inputs, and the sums of the warps are added at the end. Weights are the left operand of the tensor cores, so
up to 8 rows of x need no padding beyond 8. A single row also uses the tensor cores: unpacking a code and
multiplying it by one row elementwise takes more instructions than unpacking it for them.

The codes are small whole numbers, whose products with x are exact. The sum of a group is multiplied by the
scale, and the offset by the sum of x. The tensor cores compute that sum too, as a product with ones: their
result already lies where the scales are needed, while a sum across threads would not.

More than 16 rows of x are computed by several programs, which read the same weights at about the same time:
once from memory, then from the cache.
"""

from __future__ import annotations

from typing import Final, NamedTuple, final

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

from regrow.kernels.early import begin, early
from regrow.kernels.pruned_ffn.triton import ACTIVATIONS, activated, check_index
from regrow.kernels.quantized.unpack import half, scale_and_offset
from regrow.kernels.split_sums import RESIDENT, blocks, check

GROUPS: Final = 4  # in a loop step, one per warp; with 4-bit codes, they are 256 bytes of a row
LARGEST_BLOCK: Final = 16  # rows of x in a program
# Shared memory in bytes, and registers per thread, with which three programs run on a multiprocessor of an
# H100. The sums of 16 rows need more registers than that.
SHARED: Final = 74 * 1024
REGISTERS: Final = 168


@final
class Block(NamedTuple):
    """Sizes of one program's loop step, and its pipeline depth."""

    rows: int  # of x: 8 or 16
    outputs: int
    stages: int

    @property
    def options(self) -> dict[str, int]:
        """Launch options of `dot_rows`."""
        return {"num_warps": GROUPS} | ({"maxnreg": REGISTERS} if self.rows <= 8 else {})


@triton.jit  # type: ignore[untyped-decorator]
def group_sums(
    codes: tl.tensor,  # [out, groups * BYTES]
    factors: tl.tensor,  # [out, groups]
    neuron: tl.tensor,  # [OUTPUTS] int64
    group: tl.tensor,  # [GROUPS]
    there: tl.tensor,  # [GROUPS, OUTPUTS]
    low_x: tl.tensor,  # [GROUPS, 64, ROWS]
    high_x: tl.tensor,
    sums: tl.tensor,  # [GROUPS, OUTPUTS, ROWS], of x
    groups: tl.tensor,
    BITS: tl.constexpr,
) -> tl.tensor:
    """Returns the products [GROUPS, OUTPUTS, ROWS] of a few groups of a weight with x."""
    dtype: tl.constexpr = low_x.dtype
    bytes_apiece: tl.constexpr = 16 * BITS
    place = codes + (neuron * (groups * bytes_apiece))[None, :, None]
    place += group[:, None, None] * bytes_apiece + tl.arange(0, 64)[None, None, :]
    wanted = there[:, :, None]
    low = tl.load(place, mask=wanted, other=0, eviction_policy="evict_first")
    if BITS == 4:
        low_codes = half(low, False, dtype)
        high_codes = half(low, True, dtype)
    else:
        low_codes = low.to(dtype)
        high_codes = tl.load(place + 64, mask=wanted, other=0, eviction_policy="evict_first").to(dtype)
    pair = tl.load(factors + neuron[None, :] * groups + group[:, None], mask=there, other=0)
    scale, offset = scale_and_offset(pair)
    part = tl.dot(low_codes, low_x, input_precision="ieee")
    part = tl.dot(high_codes, high_x, part, input_precision="ieee")
    return part * scale[:, :, None] + sums * offset[:, :, None]


@triton.jit(do_not_specialize=["rows"])  # type: ignore[untyped-decorator]
def dot_rows(
    x: tl.tensor,  # [M, D]
    codes: tl.tensor,  # [out, groups * BYTES]
    factors: tl.tensor,  # [out, groups]
    bias: tl.tensor,  # [out] or None
    up_codes: tl.tensor,  # of a second weight, or None
    up_factors: tl.tensor,
    up_bias: tl.tensor,
    index: tl.tensor,  # [k], or None for all rows of the weight
    out: tl.tensor,  # [M, columns]
    rows: tl.tensor,  # M
    width: tl.tensor,  # D
    groups: tl.tensor,
    keep: tl.tensor,  # k
    columns: tl.tensor,
    x_stride: tl.tensor,
    out_stride: tl.tensor,
    ACT: tl.constexpr,
    BITS: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    GROUPS: tl.constexpr,
    STAGES: tl.constexpr,
    EARLY: tl.constexpr,
) -> None:
    """Computes OUTPUTS outputs of ROWS rows of x: W x + bias, or act(W x + bias) * (U x + up_bias)."""
    begin(EARLY)
    dtype: tl.constexpr = x.dtype.element_ty
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS).to(tl.int64)
    place = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    written = place < columns
    mine = place < keep
    neuron = (place if index is None else tl.load(index + place, mask=mine, other=0)).to(tl.int64)
    # `groups` is positive, so nothing is read. The ones are 8-bit loads like the codes, because the width of
    # the loads decides how Triton lays out the other operand, x, which both share.
    one = tl.load(codes + neuron, mask=place < -groups, other=1)
    ones = tl.broadcast_to(one[None, :, None], (GROUPS, OUTPUTS, 64)).to(dtype)
    total = tl.zeros((GROUPS, OUTPUTS, ROWS), tl.float32)
    up_total = tl.zeros((GROUPS, OUTPUTS, ROWS), tl.float32)
    for first in tl.range(0, groups, GROUPS, num_stages=STAGES):
        group = first + tl.arange(0, GROUPS)
        there = mine[None, :] & (group < groups)[:, None]
        d = group[:, None, None] * 128 + tl.arange(0, 64)[None, :, None]
        place_x = x + row[None, None, :] * x_stride + d
        live = (row < rows)[None, None, :]
        low_x = tl.load(place_x, mask=live & (d < width), other=0.0)
        high_x = tl.load(place_x + 64, mask=live & (d + 64 < width), other=0.0)
        sums = tl.dot(ones, low_x, input_precision="ieee")
        sums = tl.dot(ones, high_x, sums, input_precision="ieee")
        total += group_sums(codes, factors, neuron, group, there, low_x, high_x, sums, groups, BITS)
        if up_codes is not None:
            up_total += group_sums(
                up_codes, up_factors, neuron, group, there, low_x, high_x, sums, groups, BITS
            )
    result = tl.sum(total, axis=0)
    if bias is not None:
        result += tl.load(bias + neuron, mask=mine, other=0.0).to(tl.float32)[:, None]
    if up_codes is not None:
        raised = tl.sum(up_total, axis=0)
        if up_bias is not None:
            raised += tl.load(up_bias + neuron, mask=mine, other=0.0).to(tl.float32)[:, None]
        result = activated(result, ACT) * raised
    tl.store(
        out + row[None, :] * out_stride + place[:, None],
        tl.where(mine[:, None], result, 0.0).to(out.dtype.element_ty),
        mask=(row < rows)[None, :] & written[:, None],
    )


def block(rows: int, columns: int, matrices: int, bits: int, size: int = 2) -> Block:
    """Chooses the block sizes of `dot_rows` for elements of x of `size` bytes.

    Every program reads x, so wide weights have 32 outputs per program. Narrow ones have 16, which makes more
    programs. With 16 rows of x, two programs of 32 outputs run on a multiprocessor, and only many of them
    leave no large part of the GPU idle at the end.
    """
    padded = 8 if rows <= 8 else LARGEST_BLOCK
    least = RESIDENT if rows <= 8 else 2 * RESIDENT
    outputs = 32 if blocks(rows, padded) * blocks(columns, 32) >= least else 16
    stage = GROUPS * (matrices * outputs * (16 * bits + 4) + padded * 128 * size)
    return Block(padded, outputs, max(2, min(6, SHARED // stage + 1)))


@torch.library.custom_op("regrow::quantized_linear", mutates_args=("out",))
def quantized_linear(
    x: Tensor, codes: Tensor, factors: Tensor, bits: int, bias: Tensor | None, out: Tensor
) -> None:
    """Computes out [M, out] = x W^T + bias, where `codes`, `factors` and `bits` are a `PackedWeight`'s.

    x is [M, D] with 1 <= M <= 64. Sums are float32, and the result is rounded once. The same input gives the
    same output bit for bit. Rows of x may have any stride; 16-byte loads need strides and D that are
    multiples of 16.
    """
    launch_rows("quantized_linear", x, [(codes, factors, bias)], None, bits, "", out)


@torch.library.custom_op("regrow::quantized_gated", mutates_args=("out",))
def quantized_gated(
    x: Tensor,
    gate: Tensor,
    gate_factors: Tensor,
    up: Tensor,
    up_factors: Tensor,
    index: Tensor | None,
    gate_bias: Tensor | None,
    up_bias: Tensor | None,
    act: str,
    out: Tensor,
) -> None:
    """Computes out [M, k] = act(gate[I] x + gate_bias[I]) * (up[I] x + up_bias[I]), where I = index [k].

    Without an index, I is all neurons. gate and up are packed weights [F, D] of 4 bits. `index` is int64 or
    int32, in any order; its values are not checked. If `out` has more than k columns, the others are set to
    zero. For the rest see `quantized_linear`.
    """
    assert act in ACTIVATIONS, f"quantized_gated: act is one of {', '.join(ACTIVATIONS)}, not {act!r}"
    weights = [(gate, gate_factors, gate_bias), (up, up_factors, up_bias)]
    launch_rows("quantized_gated", x, weights, index, 4, act, out)


_Weight = tuple[Tensor, Tensor, Tensor | None]  # codes, factors, bias


def launch_rows(
    name: str,
    x: Tensor,
    weights: list[_Weight],
    index: Tensor | None,
    bits: int,
    act: str,
    out: Tensor,
    sizes: Block | None = None,
) -> None:
    """Launches `dot_rows` with one weight, or with gate and up. `sizes` is for tests."""
    check(name, x, {}, {"bias": weights[0][2], "up_bias": weights[-1][2]}, out)
    (rows, width), (outputs, columns) = x.shape, (len(weights[0][0]), out.shape[1])
    for codes, factors, bias in weights:
        check_packed(name, codes, factors, outputs, width, bits)
        assert bias is None or bias.shape == (outputs,), f"{name}: a bias is [{outputs}]"
    if index is not None:
        check_index(name, index)
    keep = outputs if index is None else len(index)
    assert len(out) == rows, f"{name}: out is [{rows}, k], not {list(out.shape)}"
    assert columns >= keep, f"{name}: out is [{rows}, {keep}] or wider, not {list(out.shape)}"
    size = sizes or block(rows, columns, len(weights), bits, x.element_size())
    up_codes, up_factors, up_bias = weights[1] if len(weights) > 1 else (None, None, None)
    dot_rows[blocks(rows, size.rows), blocks(columns, size.outputs)](
        x, *weights[0], up_codes, up_factors, up_bias, index, out, rows, width, weights[0][1].shape[1], keep,
        columns, x.stride(0), out.stride(0), act, bits, size.rows, size.outputs, GROUPS, size.stages,
        **size.options, **early(x.device),
    )  # fmt: skip


def check_packed(name: str, codes: Tensor, factors: Tensor, outputs: int, width: int, bits: int) -> None:
    """Asserts dtypes and shapes of a packed weight [outputs, width]."""
    groups = blocks(width, 128)
    assert bits in (4, 8), f"{name}: codes have 4 or 8 bits, not {bits}"
    for kind, tensor, dtype, shape in (
        ("codes", codes, torch.uint8, (outputs, 16 * bits * groups)),
        ("factors", factors, torch.int32, (outputs, groups)),
    ):
        assert tensor.dtype == dtype, f"{name}: {kind} are {dtype}, not {tensor.dtype}"
        assert tensor.shape == shape, f"{name}: {kind} are {list(shape)}, not {list(tensor.shape)}"
        assert tensor.is_contiguous(), f"{name}: {kind} are contiguous"
