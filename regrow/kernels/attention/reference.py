"""Decode attention in plain PyTorch: the definition that the kernels are tested against."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def decode_attention(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, start: Tensor, length: Tensor, scale: float, out: Tensor,
    *_: Tensor, longest: int | None = None,
) -> None:  # fmt: skip
    """Writes the attention output of the queries q [B, w, H, d] to out [B, w, H, d].

    Query i of row b attends to the cache positions start_b <= p <= length_b + i. `k_cache` and `v_cache`
    [B, H_kv, S, d] already hold the keys and values of this step, at positions length_b to length_b + w - 1.
    `longest` must be at least length_b + w for every row, and cache positions from there on are not read; by
    default all S are. The cache must be finite below `longest`, also where no query attends, because masked
    values are multiplied by 0. Other arguments, such as a workspace, are ignored.
    """
    rows, width, heads, head_width = q.shape
    kv_heads = k_cache.shape[1]
    groups = heads // kv_heads
    keys, values = k_cache[:, :, :longest], v_cache[:, :, :longest]
    position = torch.arange(keys.shape[2], device=q.device)
    last = length[:, None] + torch.arange(width, device=q.device)
    seen = (position >= start[:, None, None]) & (position <= last[:, :, None])  # [B, w, longest]
    # The query heads of a group are folded into the query dimension, so that a key is read once for all of
    # them: [B, H_kv, w groups, d].
    folded = q.reshape(rows, width, kv_heads, groups, head_width).transpose(1, 2).flatten(2, 3)
    mask = seen.repeat_interleave(groups, dim=1)[:, None]
    y = scaled_dot_product_attention(folded, keys, values, attn_mask=mask, scale=scale)
    out.copy_(y.view(rows, kv_heads, width, groups, head_width).transpose(1, 2).reshape(out.shape))
