"""Rotary embedding and cache write in one Triton kernel."""

from __future__ import annotations

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

from regrow.kernels.early import begin, early

HEADS = 8  # heads per program of `turn_heads`
TURN_WARPS = 2  # one load of 16 bytes per thread


@torch.library.custom_op("regrow::rope_cache", mutates_args=("k_cache", "v_cache", "out"))
def rope_cache(
    qkv: Tensor, q_weight: Tensor | None, k_weight: Tensor | None, eps: float, cos: Tensor, sin: Tensor,
    position: Tensor, at: Tensor, k_cache: Tensor, v_cache: Tensor, out: Tensor,
) -> None:  # fmt: skip
    """Rotates the queries and keys of qkv [B, w, (H + 2 H_kv) d], and writes keys and values to the KV cache.

    Queries go to out [B, w, H, d], keys and values to `k_cache` and `v_cache` [B, H_kv, S, d]. With
    `q_weight` and `k_weight` [d], each head of queries and keys is first normalised as transformers'
    Qwen3RMSNorm does it. They are then rotated by the angles of `position` [B, w] int64: channel j with
    channel j + d/2, as in Llama. `cos` and `sin` [positions, d/2] float32 hold the cosines and sines. Keys
    and values of a token go to the cache position `at` [B, w] int64. Padding has a negative `at` and is not
    written; its `position` may be negative too.

    Multiplications and additions are in float32. qkv, the caches and out may have any strides, but the
    channels of a head must be adjacent. Raises ValueError for other operands.
    """
    if any(tensor.stride(-1) != 1 for tensor in (qkv, k_cache, v_cache, out)):
        raise ValueError("the channels of a head have to be adjacent in memory")
    if not all(tensor.is_contiguous() for tensor in (cos, sin, position, at)):
        raise ValueError("cos, sin, position and at have to be contiguous")
    if (q_weight is None) != (k_weight is None):
        raise ValueError("queries and keys are normed both or neither")
    rows, width, heads, head_width = out.shape
    kv_heads = k_cache.shape[1]
    turn_heads[(triton.cdiv(heads + 2 * kv_heads, HEADS), width, rows)](
        qkv, cos if q_weight is None else q_weight, cos if k_weight is None else k_weight, eps, cos, sin,
        position, at, k_cache, v_cache, out,
        *qkv.stride()[:2], *k_cache.stride()[:3], *v_cache.stride()[:3], *out.stride()[:3],
        q_weight is not None, heads, kv_heads, head_width // 2, triton.next_power_of_2(head_width // 2),
        HEADS, num_warps=TURN_WARPS, **early(qkv.device),
    )  # fmt: skip


@triton.jit  # type: ignore[untyped-decorator]
def turn_heads(
    qkv: tl.tensor, q_weight: tl.tensor, k_weight: tl.tensor, eps: float, cos: tl.tensor, sin: tl.tensor,
    position: tl.tensor, at: tl.tensor, k_cache: tl.tensor, v_cache: tl.tensor, out: tl.tensor,
    qkv_row: int, qkv_token: int, k_row: int, k_head: int, k_position: int,
    v_row: int, v_head: int, v_position: int, out_row: int, out_token: int, out_head: int,
    NORM: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, HALF: tl.constexpr, PADDED: tl.constexpr,
    HEADS: tl.constexpr, EARLY: tl.constexpr,
) -> None:  # fmt: skip
    """Processes HEADS heads of one token."""
    begin(EARLY)
    token, row = tl.program_id(1), tl.program_id(2).to(tl.int64)
    # Query heads come first, then key heads, then value heads.
    head = tl.program_id(0) * HEADS + tl.arange(0, HEADS)
    column = tl.arange(0, PADDED)
    within = column < HALF
    inside = (head < QUERIES + 2 * KEYS)[:, None] & within[None, :]
    place = row * tl.num_programs(1) + token
    angle = tl.maximum(tl.load(position + place), 0)
    target = tl.load(at + place)

    source = qkv + row * qkv_row + token * qkv_token + head[:, None] * (2 * HALF) + column[None, :]
    raw = tl.load(source, mask=inside, other=0.0)
    first, second = raw.to(tl.float32), tl.load(source + HALF, mask=inside, other=0.0).to(tl.float32)
    query, value = (head < QUERIES)[:, None], (head >= QUERIES + KEYS)[:, None]
    key = ((head >= QUERIES) & (head < QUERIES + KEYS))[:, None]
    left, right = first, second
    if NORM:
        inverse = tl.rsqrt(
            (tl.sum(first * first, axis=1) + tl.sum(second * second, axis=1)) / (2 * HALF) + eps
        )[:, None]
        q_left, q_right = halves(q_weight, column, within, HALF)
        k_left, k_right = halves(k_weight, column, within, HALF)
        left = (
            (tl.where(query, q_left, k_left) * (first * inverse).to(raw.dtype).to(tl.float32))
            .to(raw.dtype)
            .to(tl.float32)
        )
        right = (
            (tl.where(query, q_right, k_right) * (second * inverse).to(raw.dtype).to(tl.float32))
            .to(raw.dtype)
            .to(tl.float32)
        )
    cosine = tl.load(cos + angle * HALF + column, mask=within, other=0.0)[None, :]
    sine = tl.load(sin + angle * HALF + column, mask=within, other=0.0)[None, :]
    turned_left, turned_right = left * cosine - right * sine, right * cosine + left * sine

    to_out = out + row * out_row + token * out_token + head[:, None] * out_head + column[None, :]
    tl.store(to_out, turned_left, mask=inside & query)
    tl.store(to_out + HALF, turned_right, mask=inside & query)
    if target >= 0:
        to_keys = (
            k_cache
            + row * k_row
            + target * k_position
            + (head - QUERIES).to(tl.int64)[:, None] * k_head
            + column[None, :]
        )
        tl.store(to_keys, turned_left, mask=inside & key)
        tl.store(to_keys + HALF, turned_right, mask=inside & key)
        to_values = (
            v_cache
            + row * v_row
            + target * v_position
            + (head - QUERIES - KEYS).to(tl.int64)[:, None] * v_head
            + column[None, :]
        )
        tl.store(to_values, first, mask=inside & value)
        tl.store(to_values + HALF, second, mask=inside & value)


@triton.jit  # type: ignore[untyped-decorator]
def halves(
    weight: tl.tensor, column: tl.tensor, within: tl.tensor, HALF: tl.constexpr
) -> tuple[tl.tensor, tl.tensor]:
    """Loads the first and the second half of a norm weight, as [1, columns] float32; 0 where not `within`."""
    left = tl.load(weight + column, mask=within, other=0.0).to(tl.float32)
    right = tl.load(weight + HALF + column, mask=within, other=0.0).to(tl.float32)
    return left[None, :], right[None, :]
