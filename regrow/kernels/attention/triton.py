"""Attention of a decode step over a KV cache of fixed size, in Triton: every key and value is read only once.

The positions of a row are split over programs (flash decoding). A program owns some positions of one row and
one key-value head, and holds the queries of that head: the w queries of the row times the query heads of the
group. It writes the softmax-weighted mean of the values at its positions. A second kernel merges the splits
of a row in a fixed order. Source of the idea: Dao et al., Flash-Decoding for long-context inference, 2023.
"""

from __future__ import annotations

from typing import NamedTuple, final

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

from regrow.kernels.early import begin, early

# Target number of programs: about four on each of some 130 multiprocessors, which evens out rows of different
# lengths.
PROGRAMS = 512
MOST_SPLITS = 64  # splits of a row; `merge` reads all of them at once
POSITIONS = 64  # keys and values that a program loads at once; half as many for heads wider than WIDE
WIDE = 128
LARGEST = 1 << 14  # elements of a program's output, float32 in registers
STAGES, MERGE_WARPS = 3, 4  # with two stages, loads would wait for the dot products of the previous tile


@final
class AttentionTile(NamedTuple):
    """Block sizes of a program, padded for the tensor cores."""

    queries: int
    channels: int
    positions: int
    least: int  # minimum positions of a split, so that a program does not write more than it reads
    warps: int


def attention_tile(queries: int, head_width: int) -> AttentionTile:
    """Chooses the block sizes for `queries` queries per row and key-value head.

    `queries` is the number w of tokens times the query heads of a group. More than 128 queries (64 for wider
    heads) would exhaust the registers. Several programs then divide the queries, and each of them reads the
    same keys and values.
    """
    queries, channels = (max(16, 1 << (size - 1).bit_length()) for size in (queries, head_width))
    queries = min(queries, LARGEST // channels, 128)
    wide = channels > WIDE
    return AttentionTile(
        queries,
        channels,
        POSITIONS // 2 if wide else POSITIONS,
        max(POSITIONS, 2 * queries),
        8 if queries * channels >= LARGEST else 4,
    )


def split_count(rows: int, kv_heads: int, capacity: int) -> int:
    """Returns the number of splits of every row of a cache of `capacity` positions.

    It does not depend on the lengths of the rows, because a captured graph keeps it.
    """
    return max(1, min(-(-PROGRAMS // (rows * kv_heads)), MOST_SPLITS, -(-capacity // POSITIONS)))


def attention_workspace(
    rows: int, width: int, heads: int, kv_heads: int, head_width: int, capacity: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns the shapes of the float32 workspaces `partial` and `mass` of `decode_attention`."""
    mass = (rows, kv_heads, split_count(rows, kv_heads, capacity), width * heads // kv_heads)
    return (*mass, head_width), mass


@torch.library.custom_op("regrow::decode_attention", mutates_args=("out", "partial", "mass"))
def decode_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    start: Tensor,
    length: Tensor,
    scale: float,
    out: Tensor,
    partial: Tensor,
    mass: Tensor,
) -> None:
    """Writes the attention output of the queries q [B, w, H, d] to out [B, w, H, d].

    Query i of row b attends to the cache positions start_b <= p <= length_b + i. `k_cache` and `v_cache`
    [B, H_kv, S, d] already hold the keys and values of this step, at positions length_b to length_b + w - 1.
    Query head h reads the key-value head h H_kv / H. `start` and `length` [B] are int32 or int64 and satisfy
    0 <= start_b <= length_b <= S - w, so that every query has a position. Scores are `scale` times the dot
    products, and their softmax is in float32.

    q, the caches and out may have any strides, but the channels of a head must be adjacent. `partial` and
    `mass` have the shapes that `attention_workspace` returns, or those with another number of splits. Their
    previous contents do not matter, nor do those of other cache positions. Raises ValueError for other
    strides.
    """
    if any(tensor.stride(-1) != 1 for tensor in (q, k_cache, v_cache, out)):
        raise ValueError("the channels of a head have to be adjacent in memory")
    if not all(tensor.is_contiguous() for tensor in (start, length, partial, mass)):
        raise ValueError("start, length and the workspaces have to be contiguous")
    rows, width, heads, head_width = q.shape
    kv_heads, splits = mass.shape[1:3]
    groups = heads // kv_heads
    tile = attention_tile(width * groups, head_width)
    blocks = triton.cdiv(width * groups, tile.queries)
    attend[(splits * blocks, kv_heads, rows)](
        q, k_cache, v_cache, start, length, partial, mass, scale,
        *q.stride()[:3], *k_cache.stride()[:3], *v_cache.stride()[:3],
        width, groups, head_width, blocks, tile.queries, tile.channels, tile.positions, tile.least,
        num_warps=tile.warps, num_stages=STAGES, **early(q.device),
    )  # fmt: skip
    merge[(heads, width, rows)](
        partial, mass, start, length, out, *out.stride()[:3],
        splits, width, groups, head_width, triton.next_power_of_2(splits), tile.channels, tile.least,
        num_warps=MERGE_WARPS, **early(q.device),
    )  # fmt: skip


@triton.jit  # type: ignore[untyped-decorator]
def share_of(start: tl.tensor, end: tl.tensor, splits: tl.tensor, LEAST: tl.constexpr) -> tl.tensor:
    """Returns the positions per split: the same for all splits of a row but the last, and at least LEAST."""
    return tl.maximum(tl.cdiv(end - start, splits), LEAST)


@triton.jit  # type: ignore[untyped-decorator]
def attend(
    q: tl.tensor, k: tl.tensor, v: tl.tensor, start: tl.tensor, length: tl.tensor, partial: tl.tensor,
    mass: tl.tensor, scale: float, q_row: int, q_token: int, q_head: int,
    k_row: int, k_head: int, k_position: int, v_row: int, v_head: int, v_position: int,
    WIDTH: tl.constexpr, GROUPS: tl.constexpr, HEAD: tl.constexpr, BLOCKS: tl.constexpr,
    QUERIES: tl.constexpr, CHANNELS: tl.constexpr, POSITIONS: tl.constexpr, LEAST: tl.constexpr,
    EARLY: tl.constexpr,
) -> None:  # fmt: skip
    """Writes the weighted mean of one split's values to `partial`, and log2 of the weight sum to `mass`."""
    begin(EARLY)
    split, block = tl.program_id(0) // BLOCKS, tl.program_id(0) % BLOCKS
    splits = tl.num_programs(0) // BLOCKS
    kv_head, row = tl.program_id(1), tl.program_id(2).to(tl.int64)
    first = tl.load(start + row).to(tl.int32)
    past = tl.load(length + row).to(tl.int32)
    end = past + WIDTH
    share = share_of(first, end, splits, LEAST)
    low = first + split * share
    if low >= end:
        return
    high = tl.minimum(low + share, end)

    query = block * QUERIES + tl.arange(0, QUERIES)  # token by token, the heads of a group side by side
    token = query // GROUPS
    head = kv_head * GROUPS + query % GROUPS
    column = tl.arange(0, CHANNELS)
    known, inside = query < WIDTH * GROUPS, column < HEAD
    asked = tl.load(
        q + row * q_row + (token * q_token + head * q_head)[:, None] + column[None, :],
        mask=known[:, None] & inside[None, :],
        other=0.0,
    )
    last = past + token
    position = tl.arange(0, POSITIONS)
    k_start = k + row * k_row + kv_head.to(tl.int64) * k_head + column[None, :]
    v_start = v + row * v_row + kv_head.to(tl.int64) * v_head + column[None, :]
    scale *= 1.4426950408889634  # log2(e), because powers of two are cheaper than powers of e

    best = tl.full((QUERIES,), float("-inf"), tl.float32)
    weight = tl.zeros((QUERIES,), tl.float32)
    output = tl.zeros((QUERIES, CHANNELS), tl.float32)
    for tile in range(low, high, POSITIONS):
        here = tile + position
        readable = (here < high)[:, None] & inside[None, :]
        key = tl.load(k_start + here.to(tl.int64)[:, None] * k_position, mask=readable, other=0.0)
        value = tl.load(v_start + here.to(tl.int64)[:, None] * v_position, mask=readable, other=0.0)
        score = tl.dot(asked, tl.trans(key), input_precision="ieee") * scale
        score = tl.where((here < high)[None, :] & (here[None, :] <= last[:, None]), score, float("-inf"))
        higher = tl.maximum(best, tl.max(score, axis=1))
        # The first queries may attend to none of the last positions, and -inf - -inf would be NaN.
        reference = tl.where(higher == float("-inf"), 0.0, higher)
        probability = tl.exp2(score - reference[:, None])
        kept = tl.exp2(best - reference)
        weight = weight * kept + tl.sum(probability, axis=1)
        output = output * kept[:, None] + tl.dot(probability.to(value.dtype), value, input_precision="ieee")
        best = higher

    place = ((row * tl.num_programs(1) + kv_head) * splits + split) * (WIDTH * GROUPS) + query
    weight = tl.where(weight > 0, weight, 1.0)
    tl.store(
        partial + place[:, None] * HEAD + column[None, :],
        output / weight[:, None],
        mask=known[:, None] & inside[None, :],
    )
    tl.store(mass + place, best + tl.log2(weight), mask=known)


@triton.jit(do_not_specialize=["splits"])  # type: ignore[untyped-decorator]
def merge(
    partial: tl.tensor, mass: tl.tensor, start: tl.tensor, length: tl.tensor, out: tl.tensor,
    out_row: int, out_token: int, out_head: int, splits: tl.tensor,
    WIDTH: tl.constexpr, GROUPS: tl.constexpr, HEAD: tl.constexpr,
    SPLITS: tl.constexpr, CHANNELS: tl.constexpr, LEAST: tl.constexpr, EARLY: tl.constexpr,
) -> None:  # fmt: skip
    """Combines the splits of one query, weighted by their `mass`."""
    begin(EARLY)
    head, token, row = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    first = tl.load(start + row).to(tl.int32)
    end = tl.load(length + row).to(tl.int32) + WIDTH
    used = tl.cdiv(end - first, share_of(first, end, splits, LEAST))
    split, column = tl.arange(0, SPLITS), tl.arange(0, CHANNELS)
    kv_head = row * (tl.num_programs(0) // GROUPS) + head // GROUPS
    place = (kv_head * splits + split) * (WIDTH * GROUPS) + token * GROUPS + head % GROUPS
    logarithm = tl.load(mass + place, mask=split < used, other=float("-inf"))
    part = tl.load(
        partial + place[:, None] * HEAD + column[None, :],
        mask=(split < used)[:, None] & (column < HEAD)[None, :],
        other=0.0,
    )
    weight = tl.exp2(logarithm - tl.max(logarithm, axis=0))
    mean = tl.sum(part * weight[:, None], axis=0) / tl.sum(weight, axis=0)
    tl.store(out + row * out_row + token * out_token + head * out_head + column, mean, mask=column < HEAD)
