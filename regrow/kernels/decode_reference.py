"""The operations of a decode step in plain PyTorch: the definitions the kernels are tested against. A CPU runs scores, norms and masks.

Those that have a kernel of their name take what it takes, and leave the workspaces, which come last and may be left out, as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from regrow.core import score_dtype


def observe(z: Tensor, slot: Tensor, total: Tensor, *_: Tensor) -> None:
    """Adds zbar^2 of z [T, F] to the rows `slot` [T] int64 of total [S, F] float32 (paper, eq. 2): zbar = z / ||z||_2 over all F neurons.

    A token whose slot is -1 does not count, one with ||z|| = 0 adds nothing. Or all layers at once: z [L, T, F], total [L, S, F].
    """
    total.index_add_(-2, slot.clamp(min=0), relative(z.to(total.dtype), slot >= 0).square_())


def magnitude(x: Tensor, slot: Tensor, *, abs_mean: bool) -> Tensor:
    """[in]: the mean of |x_i| of x [T, in] over the tokens whose `slot` [T] is not negative, or the magnitude of the mean of x_i."""
    x = x.to(score_dtype(x))
    live = slot >= 0
    total = torch.where(live[:, None], x if abs_mean else x.abs(), 0).sum(dim=0)
    return (total / live.sum().clamp(min=1)).abs()


def exceeding(
    x: Tensor, slot: Tensor, norms: Tensor | None, threshold: float, abs_mean: bool, weights: int, measured: Tensor, keep: Tensor
) -> None:
    """keep [in] bool: where `magnitude`, times `norms` [in] if given, exceeds `threshold`; `weights` times their number is added to
    `measured` [] int64."""
    score = magnitude(x, slot, abs_mean=abs_mean)
    torch.gt(score if norms is None else score * norms.to(score.dtype), threshold, out=keep)
    measured += keep.sum() * weights


def relative(z: Tensor, live: Tensor) -> Tensor:
    """zbar [..., T, F] = z / ||z||_2 of the live tokens [T] bool, 0 of the others and where ||z|| = 0."""
    norm = torch.linalg.vector_norm(z, dim=-1, keepdim=True)
    return torch.where(live[:, None] & (norm > 0), z / norm, 0)


def decode_attention(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, start: Tensor, length: Tensor, scale: float, out: Tensor, *_: Tensor,
    longest: int | None = None,
) -> None:  # fmt: skip
    """out [B, w, H, d] of q [B, w, H, d]: query i of row b attends to the cache positions start_b <= p <= length_b + i.

    `k_cache` and `v_cache` [B, H_kv, S, d] hold the keys and values of this step too, at length_b .. length_b + w - 1. Positions from
    `longest` on are not read: at least length_b + w for every row. Those before have to be finite, whoever attends to them.
    """
    rows, width, heads, head_width = q.shape
    kv_heads = k_cache.shape[1]
    groups = heads // kv_heads
    keys, values = k_cache[:, :, :longest], v_cache[:, :, :longest]
    position = torch.arange(keys.shape[2], device=q.device)
    last = length[:, None] + torch.arange(width, device=q.device)
    seen = (position >= start[:, None, None]) & (position <= last[:, :, None])  # [B, w, longest]
    # The query heads of a group are laid along the queries: a key is read once for all of them.
    folded = q.reshape(rows, width, kv_heads, groups, head_width).transpose(1, 2).flatten(2, 3)  # [B, H_kv, w groups, d]
    mask = seen.repeat_interleave(groups, dim=1)[:, None]
    y = scaled_dot_product_attention(folded, keys, values, attn_mask=mask, scale=scale)
    out.copy_(y.view(rows, kv_heads, width, groups, head_width).transpose(1, 2).reshape(out.shape))


def add_rms_norm(x: Tensor | None, residual: Tensor, weight: Tensor, eps: float, out: Tensor) -> None:
    """residual [T, D] += x [T, D], unless x is None; then out [T, D] = weight [D] * residual / sqrt(mean(residual^2) + eps).

    Rounded as transformers' LlamaRMSNorm does it: the norm in float32, its quotient to the type of the residual before the product.
    """
    if x is not None:
        residual.add_(x)
    torch.mul(unit(residual, eps), weight, out=out)


def rope_cache(
    qkv: Tensor, q_weight: Tensor | None, k_weight: Tensor | None, eps: float, cos: Tensor, sin: Tensor, position: Tensor, at: Tensor,
    k_cache: Tensor, v_cache: Tensor, out: Tensor,
) -> None:  # fmt: skip
    """Queries to out [B, w, H, d], keys and values to `k_cache` and `v_cache` [B, H_kv, S, d], of qkv [B, w, (H + 2 H_kv) d].

    Queries and keys are normed a head with `q_weight` and `k_weight` [d] where given (Qwen3), then turned by the angles of `position`
    [B, w], whose cosines and sines `cos` and `sin` [positions, d/2] float32 hold: channel j with channel j + d/2 (Llama). Keys and values
    of a token go to the cache position `at` [B, w] int64. Padding has a negative one and is not written; its position may be negative.
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


def unit(x: Tensor, eps: float) -> Tensor:
    """x [..., D] over its root mean square, in the type of x."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)


def _turn(x: Tensor, cosine: Tensor, sine: Tensor, out: Tensor) -> Tensor:
    """x [B, w, heads, d] turned, written to out."""
    left, right = x.float().chunk(2, dim=-1)
    to_left, to_right = out.chunk(2, dim=-1)
    to_left.copy_(left * cosine - right * sine)
    to_right.copy_(right * cosine + left * sine)
    return out
