"""The one dispatcher: every other package imports the operations from here, and gets what suits the device of its tensors.

An operation is a folder: `reference.py` defines it in plain PyTorch, `triton.py` holds its kernels for a GPU, `cpu.py` and `cpu.cpp` those
for a CPU. Triton is imported only where there is a GPU; float64, and a CPU without a compiler, run the reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import torch
from torch import Tensor

from regrow.core import FFNWeights
from regrow.kernels.attention import cpu as attention_cpu
from regrow.kernels.attention import reference as attention_reference
from regrow.kernels.checksums import cpu as checksum_cpu
from regrow.kernels.checksums import reference as checksum_reference
from regrow.kernels.cpu_library import KINDS, library
from regrow.kernels.gate.reference import activation
from regrow.kernels.laid_out.choose_matmul import MatmulChoice, choose_matmul, native
from regrow.kernels.laid_out.gate import LaidOutGate
from regrow.kernels.laid_out.weight import LaidOutWeight
from regrow.kernels.norm import cpu as norm_cpu
from regrow.kernels.norm import reference as norm_reference
from regrow.kernels.norm.reference import unit
from regrow.kernels.pruned_ffn.compact import CompactFFN
from regrow.kernels.pruned_ffn.cpu import CompiledFFN
from regrow.kernels.pruned_ffn.laid_out import LaidOutFFN
from regrow.kernels.pruned_linear.all_weights import AllWeightsLinear, AllWeightsLinears
from regrow.kernels.recorded.recording import Replay, record
from regrow.kernels.rotary import cpu as rotary_cpu
from regrow.kernels.rotary import reference as rotary_reference
from regrow.kernels.scores import cpu as scores_cpu
from regrow.kernels.scores import reference as scores_reference
from regrow.kernels.scores.reference import relative
from regrow.kernels.threshold import reference as threshold_reference
from regrow.kernels.threshold.reference import magnitude

__all__ = [
    "LaidOutGate",
    "LaidOutWeight",
    "MaskedLinear",
    "MaskedLinears",
    "MatmulChoice",
    "Replay",
    "SparseFFN",
    "add_rms_norm",
    "attention_workspace",
    "checksum",
    "decode_attention",
    "exceeding",
    "magnitude",
    "masked_linear",
    "masked_linears",
    "native",
    "observe",
    "choose_matmul",
    "record",
    "relative",
    "rope_cache",
    "sparse_ffn",
    "steps_compiled",
    "unit",
]

OBSERVED: Final = 128  # tokens whose scores a CPU adds at once


def _on_gpu(x: Tensor) -> bool:
    """Whether an operation on x runs through its kernels, which take no float64."""
    return x.is_cuda and x.dtype != torch.float64


def steps_compiled(like: Tensor, head_width: int) -> bool:
    """Whether whole decode steps run through compiled code of a CPU: of a model with such weights, whose heads are so wide."""
    return _compiled(like) and attention_cpu.takes(head_width)


def _compiled(x: Tensor) -> bool:
    """Whether operations on x run through compiled code of a CPU."""
    return x.device.type == "cpu" and x.dtype in KINDS and library() is not None


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


class MaskedLinears(Protocol):
    @property
    def state_bytes(self) -> int: ...
    def __call__(self, x: Tensor, keep: Tensor, /) -> Sequence[Tensor]:
        """y [..., out] of each of several linears, as of `MaskedLinear`."""
        ...


def sparse_ffn(
    weights: FFNWeights,
    keep: int,
    scratch: Tensor,
    *,
    varies: bool = False,
    laid_out: MatmulChoice | None = None,
) -> SparseFFN:
    """The sparse form of one FFN with `keep` retained neurons, or at most so many if that `varies`; `scratch` [keep, D] may be shared by
    all layers. With `laid_out`, a copy that those products take, where there can be one."""
    if _on_gpu(weights.gate) and not varies:
        from regrow.kernels.pruned_ffn.gather import GatherFFN

        if act := activation(weights.act):
            return GatherFFN(weights, act, keep)
    if laid_out is not None and laid_out.most and not varies and CompiledFFN.fits(weights):
        return CompiledFFN(weights, keep)
    if laid_out is not None and not varies and LaidOutFFN.fits(weights, keep):
        return LaidOutFFN(weights, keep, scratch, laid_out)
    return CompactFFN(weights, keep, scratch)


def masked_linear(weight: Tensor, bias: Tensor | None) -> MaskedLinear:
    """A linear [out, in] of which a step uses some inputs only."""
    if _on_gpu(weight):
        from regrow.kernels.pruned_linear.input_major import InputMajorLinear

        return InputMajorLinear(weight, bias)
    return AllWeightsLinear(weight, bias)


def masked_linears(weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> MaskedLinears:
    """Several linears [out, in] of one x that use the same of its inputs; on a GPU they are one."""
    if _on_gpu(weights[0]):
        from regrow.kernels.pruned_linear.side_by_side import SideBySideLinears

        return SideBySideLinears(weights, biases)
    return AllWeightsLinears(weights, biases)


def exceeding(
    x: Tensor,
    slot: Tensor,
    norms: Tensor | None,
    threshold: float,
    abs_mean: bool,
    weights: int,
    measured: Tensor,
) -> Tensor:
    """[in] bool: the inputs of x [T, in] whose `magnitude` over the tokens with a `slot` [T], times `norms` [in] if given, exceeds
    `threshold`; `weights` times their number is added to `measured` [] int64."""
    keep = torch.empty(x.shape[1], dtype=torch.bool, device=x.device)
    if not _on_gpu(x):
        threshold_reference.exceeding(x, slot, norms, threshold, abs_mean, weights, measured, keep)
        return keep
    from regrow.kernels.threshold import triton

    triton.exceeding(x, slot, norms, threshold, abs_mean, weights, measured, keep)
    return keep


def observe(z: Tensor, slot: Tensor, total: Tensor) -> None:
    """total [S, F] += the squares of z [T, F] over their norm, at the rows `slot` [T]; -1 does not count (eq. 2). Or all layers at once:
    z [L, T, F], total [L, S, F]."""
    # Of float32 the sums stay those of torch, to the last bit: a mask may hang on it.
    if z.dtype is torch.bfloat16 and total.dtype is torch.float32 and _compiled(z):
        scores_cpu.observe(z, slot, total)
        return
    if not _on_gpu(z) or total.dtype != torch.float32:
        # Layer by layer and some tokens at a time, so that what is computed on the way stays in the cache.
        for layer in range(len(z)) if z.dim() == 3 else (...,):
            for some, theirs in zip(
                torch.split(z[layer], OBSERVED), torch.split(slot, OBSERVED), strict=True
            ):
                scores_reference.observe(some, theirs, total[layer])
        return
    from regrow.kernels.scores import triton

    layers = z if z.dim() == 3 else z[None]
    partial = z.new_empty(triton.observe_workspace(*layers.shape), dtype=torch.float32)
    triton.observe(z, slot, total, partial, slot.new_empty(total.shape[-2], 2, dtype=torch.int32))


def checksum(words: Tensor, factors: Tensor) -> Tensor:
    """[] int64: the words [n] int64 weighed by the factors [c] int64, chunk by chunk, modulo 2^64; the same on every device."""
    if words.device.type == "cpu" and library() is not None:
        return checksum_cpu.checksum(words, factors)
    return checksum_reference.checksum(words, factors)


def attention_workspace(q: Tensor, kv_heads: int, capacity: int) -> Sequence[Tensor]:
    """What `decode_attention` works in, for queries like q [B, w, H, d] and a cache of `capacity` positions; it may be shared by layers."""
    rows, width, heads, head_width = q.shape
    if _compiled(q) and attention_cpu.takes(head_width):
        shape = attention_cpu.attention_workspace(rows, width, heads, head_width, capacity)
        return [q.new_empty(shape, dtype=torch.float32)]
    if not _on_gpu(q):
        return ()
    from regrow.kernels.attention import triton

    shapes = triton.attention_workspace(rows, width, heads, kv_heads, head_width, capacity)
    return [q.new_empty(shape, dtype=torch.float32) for shape in shapes]


def decode_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    start: Tensor,
    length: Tensor,
    scale: float,
    out: Tensor,
    workspace: Sequence[Tensor],
) -> None:
    """out [B, w, H, d] of q [B, w, H, d]: query i of row b attends to the positions start_b <= p <= length_b + i of `k_cache` and `v_cache`
    [B, H_kv, S, d]. What other positions hold does not matter on a GPU, and has to be finite elsewhere."""
    if _compiled(q) and attention_cpu.takes(q.shape[3]):
        attention_cpu.decode_attention(q, k_cache, v_cache, start, length, scale, out, *workspace)
        return
    if not _on_gpu(q):
        attention_reference.decode_attention(q, k_cache, v_cache, start, length, scale, out)
        return
    from regrow.kernels.attention import triton

    triton.decode_attention(q, k_cache, v_cache, start, length, scale, out, *workspace)


def add_rms_norm(x: Tensor | None, residual: Tensor, weight: Tensor, eps: float, out: Tensor) -> None:
    """residual [T, D] += x [T, D], unless x is None; then out [T, D] = weight [D] * residual / sqrt(mean(residual^2) + eps)."""
    if _compiled(residual):
        norm_cpu.add_rms_norm(x, residual, weight, eps, out)
        return
    if not _on_gpu(residual):
        norm_reference.add_rms_norm(x, residual, weight, eps, out)
        return
    from regrow.kernels.norm import triton

    triton.add_rms_norm(x, residual, weight, eps, out)


def rope_cache(
    qkv: Tensor,
    q_weight: Tensor | None,
    k_weight: Tensor | None,
    eps: float,
    cos: Tensor,
    sin: Tensor,
    position: Tensor,
    at: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    out: Tensor,
) -> None:
    """Queries of qkv [B, w, (H + 2 H_kv) d] to out [B, w, H, d], keys and values to `k_cache` and `v_cache` [B, H_kv, S, d] at the
    positions `at` [B, w]; normed by `q_weight` and `k_weight` [d] where given, and turned by the angles of `position` [B, w]."""
    if _compiled(qkv):
        rotary_cpu.rope_cache(qkv, q_weight, k_weight, eps, cos, sin, position, at, k_cache, v_cache, out)
        return
    if not _on_gpu(qkv):
        rotary_reference.rope_cache(
            qkv, q_weight, k_weight, eps, cos, sin, position, at, k_cache, v_cache, out
        )
        return
    from regrow.kernels.rotary import triton

    triton.rope_cache(qkv, q_weight, k_weight, eps, cos, sin, position, at, k_cache, v_cache, out)
