"""Triton kernels of the sparse FFN (paper, eq. 4). They read the retained neurons in place, through an index.

A neuron is a row of gate, a row of up and a row of the neuron-major down, so all reads are of whole rows.
Neither operator allocates or synchronises, so both can be captured in a CUDA graph. A new selection that is
written to the index takes effect at the next replay.
"""

from __future__ import annotations

from typing import Final

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

from regrow.kernels.split_sums import (
    H100_SHARED,
    LARGEST_ROWS,
    RESIDENT,
    Tile,
    blocks,
    check,
    depth,
    fit,
    most_shared,
    sum_rows,
)

ACTIVATIONS: Final = ("silu", "gelu", "gelu_tanh", "relu")


@triton.jit  # type: ignore[untyped-decorator]
def activated(x: tl.tensor, ACT: tl.constexpr) -> tl.tensor:
    """Applies the activation ACT to float32 x."""
    if ACT == "silu":
        return x * tl.sigmoid(x)
    elif ACT == "gelu":  # noqa: RET505 (Triton would also compile code after the return)
        return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    elif ACT == "gelu_tanh":  # (1 + tanh u) / 2 = sigmoid(2 u); 2 sqrt(2 / pi) = 1.5957...
        return x * tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
    else:
        tl.static_assert(ACT == "relu")
        return tl.where(x < 0.0, 0.0, x)  # keeps NaN, which a maximum would not


@triton.jit(do_not_specialize=["rows"])  # type: ignore[untyped-decorator]
def gated_dot(
    x: tl.tensor,  # [M, D]
    gate: tl.tensor,  # [F, D]
    up: tl.tensor,  # [F, D]
    index: tl.tensor,  # [k]
    gate_bias: tl.tensor,  # [F] or None
    up_bias: tl.tensor,  # [F] or None
    out: tl.tensor,  # [M, columns]
    rows: tl.tensor,  # M
    width: tl.tensor,  # D
    keep: tl.tensor,  # k
    columns: tl.tensor,
    x_stride: tl.tensor,
    gate_stride: tl.tensor,
    up_stride: tl.tensor,
    out_stride: tl.tensor,
    ACT: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    NEURONS: tl.constexpr,
    SHARE: tl.constexpr,
    STAGES: tl.constexpr,
) -> None:
    """Computes SHARE retained neurons (padded to NEURONS) for all rows of x (padded to ROWS).

    It uses the tensor cores.
    """
    row = tl.arange(0, ROWS).to(tl.int64)[:, None]
    place = tl.program_id(0) * SHARE + tl.arange(0, NEURONS)
    written = (tl.arange(0, NEURONS) < SHARE) & (place < columns)
    mine = written & (place < keep)
    neuron = tl.load(index + place, mask=mine, other=0).to(tl.int64)
    gate_total = tl.zeros((ROWS, NEURONS), tl.float32)
    up_total = tl.zeros((ROWS, NEURONS), tl.float32)
    for first in tl.range(0, width, WIDTH, num_stages=STAGES):
        d = first + tl.arange(0, WIDTH)
        inside = d < width
        values = tl.load(x + row * x_stride + d[None, :], mask=(row < rows) & inside[None, :], other=0.0)
        wanted = mine[:, None] & inside[None, :]
        gates = tl.load(
            gate + neuron[:, None] * gate_stride + d[None, :],
            mask=wanted,
            other=0.0,
            eviction_policy="evict_first",
        )
        ups = tl.load(
            up + neuron[:, None] * up_stride + d[None, :],
            mask=wanted,
            other=0.0,
            eviction_policy="evict_first",
        )
        gate_total = tl.dot(values, gates.T, gate_total, input_precision="ieee")
        up_total = tl.dot(values, ups.T, up_total, input_precision="ieee")
    if gate_bias is not None:
        gate_total += tl.load(gate_bias + neuron).to(tl.float32)[None, :]
    if up_bias is not None:
        up_total += tl.load(up_bias + neuron).to(tl.float32)[None, :]
    hidden = tl.where(mine[None, :], activated(gate_total, ACT) * up_total, 0.0)
    tl.store(
        out + row * out_stride + place[None, :],
        hidden.to(out.dtype.element_ty),
        mask=(row < rows) & written[None, :],
    )


@triton.jit  # type: ignore[untyped-decorator]
def gated_vector(
    x: tl.tensor,  # [D]
    gate: tl.tensor,
    up: tl.tensor,
    index: tl.tensor,
    gate_bias: tl.tensor,
    up_bias: tl.tensor,
    out: tl.tensor,  # [columns]
    width: tl.tensor,
    keep: tl.tensor,
    columns: tl.tensor,
    gate_stride: tl.tensor,
    up_stride: tl.tensor,
    ACT: tl.constexpr,
    WIDTH: tl.constexpr,
    NEURONS: tl.constexpr,
    SHARE: tl.constexpr,
    STAGES: tl.constexpr,
) -> None:
    """`gated_dot` for a single row of x, without tensor cores.

    Elementwise products are summed over WIDTH only at the end, so that threads exchange nothing within a loop
    step.
    """
    place = tl.program_id(0) * SHARE + tl.arange(0, NEURONS)
    written = (tl.arange(0, NEURONS) < SHARE) & (place < columns)
    mine = written & (place < keep)
    neuron = tl.load(index + place, mask=mine, other=0).to(tl.int64)
    gate_total = tl.zeros((NEURONS, WIDTH), tl.float32)
    up_total = tl.zeros((NEURONS, WIDTH), tl.float32)
    for first in tl.range(0, width, WIDTH, num_stages=STAGES):
        d = first + tl.arange(0, WIDTH)
        inside = d < width
        values = tl.load(x + d, mask=inside, other=0.0).to(tl.float32)[None, :]
        wanted = mine[:, None] & inside[None, :]
        gates = tl.load(
            gate + neuron[:, None] * gate_stride + d[None, :],
            mask=wanted,
            other=0.0,
            eviction_policy="evict_first",
        )
        ups = tl.load(
            up + neuron[:, None] * up_stride + d[None, :],
            mask=wanted,
            other=0.0,
            eviction_policy="evict_first",
        )
        gate_total += values * gates.to(tl.float32)
        up_total += values * ups.to(tl.float32)
    gated = tl.sum(gate_total, axis=1)
    raised = tl.sum(up_total, axis=1)
    if gate_bias is not None:
        gated += tl.load(gate_bias + neuron).to(tl.float32)
    if up_bias is not None:
        raised += tl.load(up_bias + neuron).to(tl.float32)
    hidden = tl.where(mine, activated(gated, ACT) * raised, 0.0)
    tl.store(out + place, hidden.to(out.dtype.element_ty), mask=written)


def gated_tile(
    rows: int, width: int, columns: int, size: int = 2, shared: int = H100_SHARED
) -> tuple[Tile, int]:
    """Chooses the block sizes for elements of `size` bytes, and the number of neurons per program.

    `shared` is the shared memory in bytes that a block may use. Output columns are divided evenly among
    programs. A program's share need not be a power of two, because the padding of a block is not read: 9472
    neurons are 36 for each of 264 programs, while blocks of 32 would give three to some multiprocessors and
    two to others. A step reads 256 bytes of each row up to 16 rows of x, and 128 bytes beyond.
    """
    share = min(64, max(16, blocks(columns, RESIDENT)))
    padded, neurons = 1 if rows == 1 else fit(LARGEST_ROWS, rows), fit(64, share)
    step = fit((256 if rows <= 16 else 128) // size, width)
    return Tile(
        padded,
        step,
        neurons,
        depth(size * step * (padded + 2 * neurons), rows, shared),
        8 if rows == 1 else 4,
    ), share


@torch.library.custom_op("regrow::gated_gather", mutates_args=("out",))
def gated_gather(
    x: Tensor,
    gate: Tensor,
    up: Tensor,
    index: Tensor,
    gate_bias: Tensor | None,
    up_bias: Tensor | None,
    act: str,
    out: Tensor,
) -> None:
    """Computes out [M, k] = act(gate[I] x + gate_bias[I]) * (up[I] x + up_bias[I]), where I = index [k].

    x is [M, D] with 1 <= M <= 64; gate and up are [F, D]. `index` is int64 or int32, in any order; its values
    are not checked. Sums are float32, and the result is rounded once. Rows may have any stride; 16-byte loads
    need row strides and D that are multiples of 16. If `out` has more than k columns, the others are set to
    zero.
    """
    launch_gated(x, gate, up, index, gate_bias, up_bias, act, out)


def launch_gated(
    x: Tensor,
    gate: Tensor,
    up: Tensor,
    index: Tensor,
    gate_bias: Tensor | None,
    up_bias: Tensor | None,
    act: str,
    out: Tensor,
    sizes: tuple[Tile, int] | None = None,
) -> None:
    """Launches the kernel of `gated_gather`. `sizes` overrides the block sizes, for tests."""
    name = "gated_gather"
    check(name, x, {"gate": gate, "up": up}, {"gate_bias": gate_bias, "up_bias": up_bias}, out)
    (rows, width), keep, neurons = x.shape, len(index), len(gate)
    assert gate.shape == up.shape == (neurons, width), (
        f"{name}: gate and up are [F, {width}], not {list(gate.shape)}, {list(up.shape)}"
    )
    check_index(name, index)
    columns = out.shape[1]
    assert len(out) == rows, f"{name}: out is [{rows}, k], not {list(out.shape)}"
    assert columns >= keep, f"{name}: out is [{rows}, {keep}] or wider, not {list(out.shape)}"
    assert all(bias is None or bias.shape == (neurons,) for bias in (gate_bias, up_bias)), (
        f"{name}: biases are [{neurons}]"
    )
    assert act in ACTIVATIONS, f"{name}: act is one of {', '.join(ACTIVATIONS)}, not {act!r}"
    tile, share = sizes or gated_tile(rows, width, columns, x.element_size(), most_shared(x.device))
    operands = x, gate, up, index, gate_bias, up_bias, out
    constants = {
        "ACT": act,
        "WIDTH": tile.inputs,
        "NEURONS": tile.outputs,
        "SHARE": share,
        "STAGES": tile.stages,
        "num_warps": tile.warps,
    }
    grid = (blocks(columns, share),)
    if tile.rows == 1:
        gated_vector[grid](*operands, width, keep, columns, gate.stride(0), up.stride(0), **constants)
    else:
        strides = x.stride(0), gate.stride(0), up.stride(0), out.stride(0)
        gated_dot[grid](*operands, rows, width, keep, columns, *strides, ROWS=tile.rows, **constants)


def check_index(name: str, index: Tensor) -> None:
    """Asserts the dtype and shape of an index, without reading its values."""
    assert index.dtype in (torch.int32, torch.int64), f"{name}: index is int32 or int64, not {index.dtype}"
    assert index.dim() == 1, f"{name}: index is [k], not {list(index.shape)}"
    assert index.is_contiguous(), f"{name}: index is contiguous"
    assert len(index), f"{name}: index holds at least one neuron"


@torch.library.custom_op("regrow::down_gather", mutates_args=("workspace", "out"))
def down_gather(
    h: Tensor, down_t: Tensor, index: Tensor, bias: Tensor | None, workspace: Tensor, out: Tensor
) -> None:
    """Computes out [M, D] = sum_i h[:, i] down_t[I_i] + bias, where I = index [k].

    h is [M, k] with 1 <= M <= 64; `down_t` is the neuron-major down [F, D]. `workspace` is float32 with shape
    `workspace_shape(M, k, D)`. Sums are float32, and the result is rounded once. The same input gives the
    same output bit for bit. Rows may have any stride; 16-byte loads need row strides, D and k that are
    multiples of 16.
    """
    check_index("down_gather", index)
    sum_rows("down_gather", h, down_t, index, bias, workspace, out)
