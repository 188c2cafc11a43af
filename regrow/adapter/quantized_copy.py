"""A copy of a decoder whose linear layers have weights of few bits: 4 in the blocks, 8 in the head."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, Self, final

import torch
from torch import Tensor
from transformers import PreTrainedModel

from regrow.adapter.llama_like import Block, DecoderWeights
from regrow.adapter.quantized_parts import QuantizedProjection, quantized_ffn, quantized_linear
from regrow.adapter.weights_state import checksums
from regrow.core import score_dtype
from regrow.errors import UsageError
from regrow.kernels import Codes, QuantizedLinear, RoundedFFN, SparseFFN

_LOG: Final = logging.getLogger(__name__)
BLOCK_BITS: Final = 4
HEAD_BITS: Final = 8  # the head decides between tokens, and is a small part of a large model


@final
@dataclass(frozen=True)
class QuantizedCopy:
    """The copy, and the state of the weights that it was made from.

    Embedding, norms and rotary embedding are those of the model.
    """

    decoder: DecoderWeights
    ffns: tuple[RoundedFFN, ...]  # those of the decoder
    nbytes: int
    group: int
    source: tuple[int, ...]  # checksums of the model's parameters and buffers

    @classmethod
    def of(
        cls,
        model: PreTrainedModel,
        decoder: DecoderWeights,
        group: int,
        progress: Callable[[int, int], None],
    ) -> Self:
        """Rounds the weights of `model`, which was read as `decoder`, in groups of `group` inputs.

        `progress(layers done, all layers)` is called after every layer.
        """
        began, rounding = time.perf_counter(), _Rounding(group)
        inner: Any = model.model
        blocks = []
        for layer, block in zip(inner.layers, decoder.blocks, strict=True):
            blocks.append(rounding.block(layer, block))
            progress(len(blocks), len(decoder.blocks))
        head = rounding.linear([model.lm_head], HEAD_BITS)
        _LOG.info(
            "rounded %d layers to %d bits and the head to %d in %.1f s; the error is %.1f %% of their norm",
            len(blocks),
            BLOCK_BITS,
            HEAD_BITS,
            time.perf_counter() - began,
            100 * rounding.error,
        )
        copied = replace(decoder, blocks=tuple(blocks), head=head)
        return cls(copied, tuple(rounding.ffns), rounding.nbytes, group, _source(model))

    def fits(self, model: PreTrainedModel, group: int) -> bool:
        """Returns True if this is a copy of the current weights, in groups of `group`."""
        return self.group == group and self.source == _source(model)

    def masked(
        self, decoder: DecoderWeights, layers: Collection[int], keep: int | None
    ) -> tuple[DecoderWeights, Sequence[SparseFFN]]:
        """Returns the copy with a mask of `keep` neurons, and the FFNs that have to load it.

        Only these `layers` are masked, and there is an FFN for each of them. If the kernels do not take rows
        through an index, or the method has no index of a fixed size (`keep` is None), the FFNs of these
        layers are those of `decoder`, the model: patched ones, with its own weights. None of them has to load
        anything.
        """
        blocks, loaded = list(self.decoder.blocks), []
        for layer in sorted(layers):
            sparse = None if keep is None else self.ffns[layer].keeping(keep)
            blocks[layer] = replace(blocks[layer], ffn=sparse or decoder.blocks[layer].ffn)
            if sparse is not None:
                loaded.append(sparse)
        return replace(self.decoder, blocks=tuple(blocks)), loaded


def require_group(group: int) -> None:
    """Raises UsageError unless weights can be rounded in groups of `group`."""
    if type(group) is not int or group < 8 or group % 8:
        raise UsageError(f"group is a multiple of 8, not {group!r}")


def _source(model: PreTrainedModel) -> tuple[int, ...]:
    return checksums([*model.parameters(), *model.buffers()])


@final
class _Rounding:
    """Rounds linear layers, and adds up what that takes and loses."""

    def __init__(self, group: int) -> None:
        self._group = group
        self.nbytes = 0
        self.ffns: list[RoundedFFN] = []
        self._lost, self._squares = 0.0, 0.0

    @property
    def error(self) -> float:
        """Norm of the rounding errors, as a share of the norm of the weights."""
        return float((self._lost / self._squares) ** 0.5) if self._squares else 0.0

    def block(self, layer: Any, block: Block) -> Block:
        attention = layer.self_attn
        qkv = self.linear([attention.q_proj, attention.k_proj, attention.v_proj], BLOCK_BITS)
        output = self.linear([attention.o_proj], BLOCK_BITS)
        ffn = quantized_ffn(layer.mlp, self._codes, self._group)
        self.nbytes += ffn.state_bytes
        self.ffns.append(ffn)
        return replace(block, qkv=QuantizedProjection(qkv), output=output, ffn=ffn)

    def linear(self, linears: list[Any], bits: int) -> QuantizedLinear:
        """Rounds linear layers of one input, with their outputs side by side."""
        made = quantized_linear(linears, partial(self._codes, bits=bits))
        self.nbytes += made.nbytes
        return made

    def _codes(self, weight: Tensor, bits: int = BLOCK_BITS) -> Codes:
        codes = Codes.of(weight, bits, self._group)
        self._lost += codes.lost
        self._squares += float(torch.linalg.vector_norm(weight, dtype=score_dtype(weight))) ** 2
        return codes
