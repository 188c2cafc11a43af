"""Residual addition and RMSNorm in plain PyTorch: the definition that the kernels are tested against."""

from __future__ import annotations

import torch
from torch import Tensor


def add_rms_norm(x: Tensor | None, residual: Tensor, weight: Tensor, eps: float, out: Tensor) -> None:
    """Adds x [T, D] to residual [T, D] in place, and writes the RMSNorm of the sum to out [T, D].

    If x is None, nothing is added. out = weight [D] * residual / sqrt(mean(residual^2) + eps), rounded as in
    transformers' LlamaRMSNorm: the division is in float32, and its result is rounded to the residual's dtype
    before the multiplication by the weight.
    """
    if x is not None:
        residual.add_(x)
    torch.mul(unit(residual, eps), weight, out=out)


def unit(x: Tensor, eps: float) -> Tensor:
    """Returns x [..., D] divided by its root mean square, in the dtype of x."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)
