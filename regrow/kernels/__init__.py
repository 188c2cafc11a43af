"""What runs on a device, with the implementation that suits it. A new kernel is one file and one line here.

Triton is imported only where there is a GPU.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from regrow.core import FFNWeights
from regrow.kernels import decode_reference
from regrow.kernels.compact import CompactFFN
from regrow.kernels.decode_reference import magnitude, relative
from regrow.kernels.plain import PlainMasked

__all__ = ["MaskedLinear", "SparseFFN", "exceeding", "magnitude", "masked_linear", "observe", "relative", "sparse_ffn"]


class SparseFFN(Protocol):
    """An FFN that computes only the retained neurons."""

    @property
    def state_bytes(self) -> int: ...
    def forget(self) -> None: ...
    def load(self, index: Tensor) -> int:
        """Makes `index` the retained set, in ascending order; how many neurons were moved."""
        ...

    def __call__(self, x: Tensor) -> Tensor: ...


class MaskedLinear(Protocol):
    @property
    def state_bytes(self) -> int: ...
    def __call__(self, x: Tensor, keep: Tensor, /) -> Tensor:
        """y [..., out] of x [..., in] with the inputs `keep` [in] bool, the others taken for zero."""
        ...


def sparse_ffn(weights: FFNWeights, keep: int, scratch: Tensor, *, varies: bool = False) -> SparseFFN:
    """The sparse form of one FFN with `keep` retained neurons, or at most so many if that `varies`; `scratch` [keep, D] may be shared by
    all layers."""
    if weights.gate.is_cuda and not varies and weights.gate.dtype != torch.float64:
        from regrow.kernels.gather import GatherFFN, activation

        if act := activation(weights.act):
            return GatherFFN(weights, act, keep)
    return CompactFFN(weights, keep, scratch)


def masked_linear(weight: Tensor, bias: Tensor | None) -> MaskedLinear:
    """A linear [out, in] of which a step uses some inputs only."""
    if weight.is_cuda and weight.dtype != torch.float64:
        from regrow.kernels.masked import InputMajorLinear

        return InputMajorLinear(weight, bias)
    return PlainMasked(weight, bias)


def exceeding(x: Tensor, slot: Tensor, norms: Tensor | None, threshold: float, abs_mean: bool, weights: int, measured: Tensor) -> Tensor:
    """[in] bool: the inputs of x [T, in] whose `magnitude` over the tokens with a `slot` [T], times `norms` [in] if given, exceeds
    `threshold`; `weights` times their number is added to `measured` [] int64."""
    keep = torch.empty(x.shape[1], dtype=torch.bool, device=x.device)
    if not x.is_cuda or x.dtype == torch.float64:
        decode_reference.exceeding(x, slot, norms, threshold, abs_mean, weights, measured, keep)
        return keep
    from regrow.kernels.triton import retain

    retain.exceeding(x, slot, norms, threshold, abs_mean, weights, measured, keep)
    return keep


def observe(z: Tensor, slot: Tensor, total: Tensor) -> None:
    """total [S, F] += the squares of z [T, F] over their norm, at the rows `slot` [T]; -1 does not count (eq. 2). Or all layers at once:
    z [L, T, F], total [L, S, F]."""
    if not z.is_cuda or total.dtype != torch.float32:
        # Layer by layer, so that what is computed on the way stays in the cache.
        for layer in range(len(z)) if z.dim() == 3 else (...,):
            decode_reference.observe(z[layer], slot, total[layer])
        return
    from regrow.kernels.triton import score

    layers = z if z.dim() == 3 else z[None]
    score.observe(z, slot, total, z.new_empty(score.observe_workspace(*layers.shape), dtype=torch.float32))
