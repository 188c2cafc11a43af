"""Residual addition and RMSNorm, in one pass over each token (CPU)."""

from __future__ import annotations

from torch import Tensor

from regrow.kernels.cpu_library import FLOAT, LONG, POINTER, Kernel, check

KERNEL = Kernel("add_rms_norm", *[POINTER] * 4, *[LONG] * 5, FLOAT)


def add_rms_norm(x: Tensor | None, residual: Tensor, weight: Tensor, eps: float, out: Tensor) -> None:
    """Adds x to the residual and writes the RMSNorm of the sum, as `reference.add_rms_norm` does.

    Tokens may have any stride, but the channels of a token must be adjacent (ValueError). All tensors have
    the dtype of the residual (TypeError).
    """
    if any(tensor is not None and tensor.stride(-1) != 1 for tensor in (x, residual, weight, out)):
        raise ValueError("the channels of a token have to be adjacent in memory")
    check(residual.dtype, x, weight, out)
    added, between = (None, 0) if x is None else (x.data_ptr(), x.stride(0))
    KERNEL[residual.dtype](
        added,
        residual.data_ptr(),
        weight.data_ptr(),
        out.data_ptr(),
        *residual.shape,
        between,
        residual.stride(0),
        out.stride(0),
        eps,
    )
