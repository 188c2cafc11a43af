"""Residual and RMSNorm in plain PyTorch: the definition that the kernel is tested against."""

from __future__ import annotations

import torch
from torch import Tensor


def add_rms_norm(x: Tensor | None, residual: Tensor, weight: Tensor, eps: float, out: Tensor) -> None:
    """residual [T, D] += x [T, D], unless x is None; then out [T, D] = weight [D] * residual / sqrt(mean(residual^2) + eps).

    Rounded as transformers' LlamaRMSNorm does it: the norm in float32, its quotient to the type of the residual before the product.
    """
    if x is not None:
        residual.add_(x)
    torch.mul(unit(residual, eps), weight, out=out)


def unit(x: Tensor, eps: float) -> Tensor:
    """x [..., D] over its root mean square, in the type of x."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)
