"""Rounds the weights of decoder blocks to 4 bits in place.

On a CPU that multiplies codes, the codes are kept beside the model, and decode steps multiply by them instead
of the rounded weights. A copy of the model has the rounded weights alone, which give the same tokens up to
rounding, that of the inputs to 8 bits included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any, Final, final
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from regrow.adapter.find import find_ffns
from regrow.adapter.linears import block_linears
from regrow.adapter.llama_like import Block, DecoderWeights, readable
from regrow.adapter.plain import has_other_forward
from regrow.adapter.quantized_copy import BLOCK_BITS, require_group
from regrow.adapter.quantized_parts import QuantizedProjection, quantized_ffn, quantized_linear
from regrow.adapter.weights_state import checksums
from regrow.core import Site, score_dtype
from regrow.errors import UsageError
from regrow.kernels import GROUP, Codes, QuantizedLinear, RoundedFFN, multiplies_codes, packs


@final
@dataclass(frozen=True)
class _Codes:
    """The codes of one decoder block; None for a part whose sizes the kernels do not take."""

    qkv: QuantizedLinear | None
    output: QuantizedLinear | None
    ffn: RoundedFFN | None

    def linears(self, layer: Any) -> Iterator[nn.Linear]:
        """Yields the linear layers of `layer` that there are codes of."""
        qkv, output, ffn = _parts(layer)
        for part, linears in ((self.qkv, qkv), (self.output, output), (self.ffn, ffn)):
            yield from () if part is None else linears

    def block(self, layer: Any, block: Block) -> Block:
        """Returns the block with these codes, except where a method has patched a module."""
        qkv, output, ffn = (any(map(has_other_forward, part)) for part in _parts(layer))
        if self.qkv is not None and not qkv:
            block = replace(block, qkv=QuantizedProjection(self.qkv))
        if self.output is not None and not output:
            block = replace(block, output=self.output)
        if self.ffn is not None and not ffn and not has_other_forward(layer.mlp):
            block = replace(block, ffn=self.ffn)
        return block


@final
@dataclass(frozen=True, eq=False)
class PackedBlocks:
    """The codes of all decoder blocks of a model, and the state of the weights that they stand for."""

    codes: tuple[_Codes, ...]
    source: tuple[int, ...]  # checksums of the weights and biases

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales and offsets."""
        return sum(self.sizes.values())

    @property
    def sizes(self) -> dict[Site, int]:
        """Bytes by site, of the sites that have codes."""
        found = dict.fromkeys(Site, 0)
        for codes in self.codes:
            found[Site.QKV] += 0 if codes.qkv is None else codes.qkv.nbytes
            found[Site.O] += 0 if codes.output is None else codes.output.nbytes
            ffn = 0 if codes.ffn is None else codes.ffn.state_bytes
            found[Site.GATE_UP] += ffn - ffn // 3  # the three weights have as many elements
            found[Site.DOWN] += ffn // 3
        return {site: size for site, size in found.items() if size}

    def decoder(self, model: PreTrainedModel, decoder: DecoderWeights) -> DecoderWeights:
        """Returns the decoder of `model` with codes wherever no method has patched a module."""
        together = zip(self.codes, _layers(model), decoder.blocks, strict=True)
        return replace(decoder, blocks=tuple(codes.block(layer, block) for codes, layer, block in together))


_PACKED: Final[WeakKeyDictionary[nn.Module, PackedBlocks]] = WeakKeyDictionary()


def packed_blocks(model: PreTrainedModel) -> PackedBlocks | None:
    """Returns the codes of a model that was rounded; None if there are none, or if the weights changed."""
    packed = _PACKED.get(model)
    if packed is None or len(packed.codes) != len(_layers(model)):
        return None
    return packed if packed.source == _source(model, packed.codes) else None


@torch.no_grad()
def round_linears(
    model: nn.Module,
    group: int = GROUP,
    progress: Callable[[int, int], None] | None = None,
    *,
    pack: bool = True,
) -> float:
    """Rounds the weights of all linear layers of the decoder blocks to 4 bits, in place.

    Does what `regrow.round_weights` does, for a caller that has the model for itself. `pack`: whether codes
    are kept if this CPU multiplies them.
    """
    require_group(group)
    blocks = block_linears(model, find_ffns(model))
    squares = _squares(blocks)
    _PACKED.pop(model, None)  # frees the codes of an earlier rounding
    first = next(iter(blocks[0].values())).weight
    layers = (
        _layers(model)
        if pack
        and isinstance(model, PreTrainedModel)
        and first.dtype is torch.bfloat16  # the kernels round inputs to 8 bits, which is much for float32
        and multiplies_codes(first.device, first.dtype)
        and readable(model)
        else []
    )
    rounded: set[Tensor] = set()  # layers may share weights
    kept, lost = [], 0.0
    for number, linears in enumerate(blocks):
        codes = {module.weight: Codes.of(module.weight, BLOCK_BITS, group) for module in linears.values()}
        if layers:
            kept.append(_packed(layers[number], codes))
        for weight, exact in codes.items():
            if weight not in rounded:
                rounded.add(weight)
                new = exact.expanded(weight.dtype)
                lost += _square(new - weight)
                weight.copy_(new)
        if progress is not None:
            progress(number + 1, len(blocks))
    if layers and isinstance(model, PreTrainedModel):
        _PACKED[model] = PackedBlocks(tuple(kept), _source(model, kept))
    return float((lost / squares) ** 0.5) if squares else 0.0


def _squares(blocks: Sequence[dict[str, nn.Linear]]) -> float:
    """Returns the sum of the squares of all weights. Raises UsageError if one is not finite."""
    squares: dict[Tensor, float] = {}
    for name, module in (pair for linears in blocks for pair in linears.items()):
        squares[module.weight] = _square(module.weight)
        if not isfinite(squares[module.weight]):
            raise UsageError(
                f"{name} has weights that are NaN, infinite or huge, so they cannot be rounded; "
                "load an undamaged checkpoint"
            )
    return sum(squares.values())


def _square(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor, dtype=score_dtype(tensor))) ** 2


def _packed(layer: Any, codes: dict[Tensor, Codes]) -> _Codes:
    qkv, output, ffn = (
        linears if all(packs(codes[module.weight], module.weight.dtype) for module in linears) else []
        for linears in _parts(layer)
    )
    return _Codes(
        quantized_linear(qkv, codes.__getitem__) if qkv else None,
        quantized_linear(output, codes.__getitem__) if output else None,
        quantized_ffn(layer.mlp, codes.__getitem__) if ffn else None,
    )


def _parts(layer: Any) -> tuple[list[nn.Linear], list[nn.Linear], list[nn.Linear]]:
    """Returns the linear layers of a block of a known family: of queries, keys and values, output, FFN."""
    attention, mlp = layer.self_attn, layer.mlp
    return (
        [attention.q_proj, attention.k_proj, attention.v_proj],
        [attention.o_proj],
        [mlp.gate_proj, mlp.up_proj, mlp.down_proj],
    )


def _layers(model: PreTrainedModel) -> Sequence[Any]:
    layers: Sequence[Any] = model.model.layers
    return layers


def _source(model: PreTrainedModel, codes: Sequence[_Codes]) -> tuple[int, ...]:
    linears = (
        module for one, layer in zip(codes, _layers(model), strict=True) for module in one.linears(layer)
    )
    return checksums(parameter for module in linears for parameter in module.parameters())
