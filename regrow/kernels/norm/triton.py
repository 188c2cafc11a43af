"""Residual addition and RMSNorm in one Triton kernel."""

from __future__ import annotations

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

from regrow.kernels.early import begin, early


def norm_warps(width: int) -> int:
    """Returns the warps that load `width` 2-byte channels with one load of 16 bytes per thread."""
    return min(16, max(1, (1 << (width - 1).bit_length()) // 256))


@torch.library.custom_op("regrow::add_rms_norm", mutates_args=("residual", "out"))
def add_rms_norm(x: Tensor | None, residual: Tensor, weight: Tensor, eps: float, out: Tensor) -> None:
    """Adds x [T, D] to residual [T, D] in place, and writes the RMSNorm of the sum to out [T, D].

    If x is None, nothing is added. out = weight [D] * residual / sqrt(mean(residual^2) + eps), rounded as in
    transformers' LlamaRMSNorm: the sum is rounded to the residual's dtype, the division is in float32, and
    its result is rounded to that dtype before the multiplication by the weight. Tokens may have any stride,
    but the channels of a token must be adjacent (ValueError).
    """
    if any(tensor is not None and tensor.stride(-1) != 1 for tensor in (x, residual, weight, out)):
        raise ValueError("the channels of a token have to be adjacent in memory")
    tokens, width = residual.shape
    if not tokens:
        return
    norm_token[(tokens,)](
        residual if x is None else x, residual, weight, out, eps,
        0 if x is None else x.stride(0), residual.stride(0), out.stride(0),
        x is not None, width, triton.next_power_of_2(width), num_warps=norm_warps(width),
        **early(residual.device),
    )  # fmt: skip


@triton.jit  # type: ignore[untyped-decorator]
def norm_token(
    x: tl.tensor, residual: tl.tensor, weight: tl.tensor, out: tl.tensor, eps: float,
    x_token: int, residual_token: int, out_token: int,
    ADD: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr, EARLY: tl.constexpr,
) -> None:  # fmt: skip
    """Processes one token."""
    begin(EARLY)
    token = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, PADDED)
    inside = column < WIDTH
    scale = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    stored = tl.load(residual + token * residual_token + column, mask=inside, other=0.0)
    if ADD:
        added = tl.load(x + token * x_token + column, mask=inside, other=0.0)
        stored = (stored.to(tl.float32) + added.to(tl.float32)).to(stored.dtype)
        tl.store(residual + token * residual_token + column, stored, mask=inside)
    wide = stored.to(tl.float32)
    normed = wide * tl.rsqrt(tl.sum(wide * wide, axis=0) / WIDTH + eps)
    tl.store(out + token * out_token + column, scale * normed.to(stored.dtype).to(tl.float32), mask=inside)
