"""Rotary embedding and cache write in plain PyTorch: the definition that the kernels are tested against."""

from __future__ import annotations

import torch
from torch import Tensor

from regrow.kernels.norm.reference import unit


def rope_cache(
    qkv: Tensor, q_weight: Tensor | None, k_weight: Tensor | None, eps: float, cos: Tensor, sin: Tensor,
    position: Tensor, at: Tensor, k_cache: Tensor, v_cache: Tensor, out: Tensor,
) -> None:  # fmt: skip
    """Rotates the queries and keys of qkv [B, w, (H + 2 H_kv) d], and writes keys and values to the KV cache.

    Queries go to out [B, w, H, d], keys and values to `k_cache` and `v_cache` [B, H_kv, S, d]. With
    `q_weight` and `k_weight` [d], each head of queries and keys is first normalised (Qwen3). They are then
    rotated by the angles of `position` [B, w] int64: channel j with channel j + d/2 (Llama). `cos` and `sin`
    [positions, d/2] float32 hold the cosines and sines. Keys and values of a token go to the cache position
    `at` [B, w] int64. Padding has a negative `at` and is not written; its `position` may be negative too.
    """
    parts = qkv.reshape(*qkv.shape[:2], -1, out.shape[3])  # [B, w, H + 2 H_kv, d]
    query, (key, value) = parts[:, :, : out.shape[2]], parts[:, :, out.shape[2] :].chunk(2, dim=2)
    if q_weight is not None:
        query = unit(query, eps) * q_weight
    if k_weight is not None:
        key = unit(key, eps) * k_weight
    held = position.clamp(min=0)
    cosine, sine = cos[held][:, :, None], sin[held][:, :, None]  # [B, w, 1, d/2]
    _turn(query, cosine, sine, out)
    turned = _turn(key, cosine, sine, torch.empty_like(key))
    row, token = (at >= 0).nonzero(as_tuple=True)
    place = at[row, token]
    k_cache[row, :, place] = turned[row, token].to(k_cache.dtype)
    v_cache[row, :, place] = value[row, token].to(v_cache.dtype)


def _turn(x: Tensor, cosine: Tensor, sine: Tensor, out: Tensor) -> Tensor:
    """Rotates x [B, w, heads, d], and writes the result to out."""
    left, right = x.float().chunk(2, dim=-1)
    to_left, to_right = out.chunk(2, dim=-1)
    to_left.copy_(left * cosine - right * sine)
    to_right.copy_(right * cosine + left * sine)
    return out
