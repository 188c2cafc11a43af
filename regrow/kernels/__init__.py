"""Dispatcher of the operations: picks the implementation that suits a tensor's device and dtype.

All other packages import the operations from here. Each operation is a folder: `reference.py` defines it in
plain PyTorch, `triton.py` holds its GPU kernels, `cpu.py` and `cpu.cpp` its CPU kernels. Triton is imported
only where there is a GPU. float64 tensors, and CPUs without a C++ compiler, use the PyTorch reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from regrow.core import FFNWeights, Reduce
from regrow.kernels.attention import cpu as attention_cpu
from regrow.kernels.attention import reference as attention_reference
from regrow.kernels.checksums import cpu as checksum_cpu
from regrow.kernels.checksums import reference as checksum_reference
from regrow.kernels.cpu_library import KINDS, library
from regrow.kernels.gate.reference import activation
from regrow.kernels.laid_out.choose_matmul import (
    MatmulChoice,
    choose_matmul,
    has_instructions,
    native,
    repeatable_matmul,
)
from regrow.kernels.laid_out.gate import LaidOutGate
from regrow.kernels.laid_out.weight import LaidOutWeight, can_lay_out
from regrow.kernels.norm import cpu as norm_cpu
from regrow.kernels.norm import reference as norm_reference
from regrow.kernels.norm.reference import unit
from regrow.kernels.protocols import MaskedLinear, MaskedLinears, RoundedFFN, SparseFFN
from regrow.kernels.pruned_ffn.compact import CompactFFN
from regrow.kernels.pruned_ffn.cpu import CompiledFFN
from regrow.kernels.pruned_ffn.laid_out import LaidOutFFN
from regrow.kernels.pruned_linear.all_weights import AllWeightsLinear, AllWeightsLinears
from regrow.kernels.pruned_linear.threshold import AboveThreshold, magnitude
from regrow.kernels.quantized.choose import packed, quantized_ffn, quantized_gather_ffn
from regrow.kernels.quantized.codes import GROUP, Codes
from regrow.kernels.quantized.linear import QuantizedFFN, QuantizedLinear, multiplies_codes, packs
from regrow.kernels.recorded.recording import Replay, record
from regrow.kernels.rotary import cpu as rotary_cpu
from regrow.kernels.rotary import reference as rotary_reference
from regrow.kernels.scores import cpu as scores_cpu
from regrow.kernels.scores import reference as scores_reference
from regrow.kernels.scores.reference import relative

__all__ = [
    "GROUP",
    "AboveThreshold",
    "Codes",
    "LaidOutGate",
    "LaidOutWeight",
    "MaskedLinear",
    "MaskedLinears",
    "MatmulChoice",
    "QuantizedFFN",
    "QuantizedLinear",
    "Replay",
    "RoundedFFN",
    "SparseFFN",
    "add_rms_norm",
    "attention_workspace",
    "can_lay_out",
    "checksum",
    "choose_matmul",
    "decode_attention",
    "has_instructions",
    "magnitude",
    "masked_linear",
    "masked_linears",
    "multiplies_codes",
    "native",
    "observe",
    "packed",
    "packs",
    "quantized_ffn",
    "quantized_gather_ffn",
    "record",
    "relative",
    "repeatable_matmul",
    "rope_cache",
    "sparse_ffn",
    "steps_compiled",
    "unit",
]

OBSERVED: Final = 128  # tokens per chunk when the reference adds scores, so that temporaries stay in cache


def _on_gpu(x: Tensor) -> bool:
    """Returns True if operations on `x` run through the Triton kernels, which do not support float64."""
    return x.is_cuda and x.dtype != torch.float64


def steps_compiled(like: Tensor, head_width: int) -> bool:
    """Returns True if whole decode steps run through the compiled CPU kernels.

    `like` is a weight of the model (its device and dtype count), `head_width` the width of its attention
    heads.
    """
    return _compiled(like) and attention_cpu.takes(head_width)


def _compiled(x: Tensor) -> bool:
    """Returns True if operations on `x` run through the compiled CPU kernels."""
    return x.device.type == "cpu" and x.dtype in KINDS and library() is not None


def sparse_ffn(
    weights: FFNWeights,
    keep: int,
    scratch: Tensor,
    *,
    varies: bool = False,
    laid_out: MatmulChoice | None = None,
) -> SparseFFN:
    """Creates the sparse form of one FFN that retains `keep` neurons, or at most `keep` if `varies`.

    `scratch` [keep, D] may be shared by all layers. With `laid_out`, the retained neurons are copied in the
    layout that this matmul needs, if the weights allow it.
    """
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
    """Creates the masked form of a linear layer with `weight` [out, in]."""
    if _on_gpu(weight):
        from regrow.kernels.pruned_linear.input_major import InputMajorLinear

        return InputMajorLinear(weight, bias)
    return AllWeightsLinear(weight, bias)


def masked_linears(weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> MaskedLinears:
    """Creates the masked form of linear layers [out, in] that share x and mask; on a GPU they are fused."""
    if _on_gpu(weights[0]):
        from regrow.kernels.pruned_linear.side_by_side import SideBySideLinears

        return SideBySideLinears(weights, biases)
    return AllWeightsLinears(weights, biases)


def observe(z: Tensor, slot: Tensor, total: Tensor, reduce: Reduce | None = None) -> None:
    """Adds (z / ||z||)^2 of every token of z [T, F] to row `slot` [T] of total [S, F] (paper, eq. 2).

    Tokens whose slot is -1 do not count. All layers can be added at once: z [L, T, F], total [L, S, F].

    With `reduce`, z holds one shard's neurons. The norm is that over the neurons of all shards, whose squared
    norms are summed once for all tokens and layers.
    """
    if reduce is not None:
        scores_reference.observe(z, slot, total, reduce=reduce)
        return
    # float32 activations always use torch's sums, because a difference in the last bit can change a mask.
    if z.dtype is torch.bfloat16 and total.dtype is torch.float32 and _compiled(z):
        scores_cpu.observe(z, slot, total)
        return
    if not _on_gpu(z) or total.dtype != torch.float32:
        # One layer and OBSERVED tokens at a time, so that temporaries stay in the CPU's cache.
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
    """Returns a checksum [] int64 of `words` [n] int64, weighted by `factors` [c] int64, modulo 2^64.

    The words are summed in chunks of c (`checksums/reference.py`). The result is the same on every device.
    """
    if words.device.type == "cpu" and library() is not None:
        return checksum_cpu.checksum(words, factors)
    return checksum_reference.checksum(words, factors)


def attention_workspace(q: Tensor, kv_heads: int, capacity: int) -> Sequence[Tensor]:
    """Allocates the workspaces of `decode_attention` for queries like q [B, w, H, d]; layers may share them.

    `capacity` is the number of positions of the KV cache.
    """
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
    """Writes the attention output of the queries q [B, w, H, d] to out [B, w, H, d].

    Query i of row b attends to the positions start_b <= p <= length_b + i of `k_cache` and `v_cache`
    [B, H_kv, S, d]. On a GPU the other positions may hold anything. Elsewhere they must be finite.
    """
    if _compiled(q) and attention_cpu.takes(q.shape[3]):
        attention_cpu.decode_attention(q, k_cache, v_cache, start, length, scale, out, *workspace)
        return
    if not _on_gpu(q):
        attention_reference.decode_attention(q, k_cache, v_cache, start, length, scale, out)
        return
    from regrow.kernels.attention import triton

    triton.decode_attention(q, k_cache, v_cache, start, length, scale, out, *workspace)


def add_rms_norm(x: Tensor | None, residual: Tensor, weight: Tensor, eps: float, out: Tensor) -> None:
    """Adds x [T, D] to residual [T, D] in place, and writes the RMSNorm of the sum to out [T, D].

    If x is None, nothing is added. out = weight [D] * residual / sqrt(mean(residual^2) + eps).
    """
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
    """Rotates the queries and keys of qkv [B, w, (H + 2 H_kv) d], and writes keys and values to the KV cache.

    Queries go to out [B, w, H, d]; keys and values go to positions `at` [B, w] of `k_cache` and `v_cache`
    [B, H_kv, S, d]. Queries and keys are first normalised with `q_weight` and `k_weight` [d] if given, then
    rotated by the angles of `position` [B, w].
    """
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
