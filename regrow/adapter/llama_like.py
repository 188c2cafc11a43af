"""Reads the decoders that Regrow can run itself: Llama, Mistral, Qwen2 and Qwen3.

Their blocks differ in biases and head norms only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import starmap
from typing import Any, final

import torch
from torch import Tensor, nn
from transformers import (
    LlamaForCausalLM,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2ForCausalLM,
    Qwen3ForCausalLM,
)

from regrow.adapter.plain import odd_linear, odd_parameter
from regrow.adapter.pristine import pristine
from regrow.adapter.projection import Projection, joined

FAMILIES = (LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM)


@final
@dataclass(frozen=True)
class Norm:
    """RMSNorm over the last dimension."""

    weight: Tensor
    eps: float


@final
@dataclass(frozen=True)
class Block:
    """One decoder layer: H query heads and H_kv key-value heads of width d, residual stream of width D."""

    attention_norm: Norm
    qkv: Projection  # [..., D] -> [..., (H + 2 H_kv) d]: queries, keys, values
    query_norm: Norm | None  # per head
    key_norm: Norm | None
    output: Callable[[Tensor], Tensor]  # [..., H d] -> [..., D]
    ffn_norm: Norm
    ffn: Callable[[Tensor], Tensor]  # the model's module, patched or not


@final
@dataclass(frozen=True)
class DecoderWeights:
    """A decoder as a value.

    Weights are the model's own, except that those of queries, keys and values are copied side by side.
    """

    embedding: Tensor  # [V, D]
    blocks: tuple[Block, ...]
    norm: Norm
    head: Callable[[Tensor], Tensor]  # [..., D] -> [..., V]
    heads: int
    kv_heads: int
    head_width: int
    # (any tensor of the dtype, positions [1, P]) -> cos, sin [1, P, d]
    rotary: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

    def refresh(self) -> None:
        """Updates the copied weights with the model's current values."""
        with torch.no_grad():
            for block in self.blocks:
                block.qkv.refresh()


def readable(model: PreTrainedModel) -> bool:
    """Returns True for a known family as transformers ships it, with the attributes that `read` needs."""
    if type(model) not in FAMILIES or model.training or not pristine(model):
        return False
    inner = model.model
    return (
        _has_parts(inner, type(model))
        and _fixed_angles(model)
        and not slides(model.config)
        and not odd_linear(model.lm_head)
        and inner.embed_tokens.max_norm is None  # it would rescale weights during the lookup
        and model.config.num_hidden_layers == len(inner.layers)  # the forward stops at num_hidden_layers
        and all(starmap(partial(_is_ordinary, model), enumerate(inner.layers)))
        and len({(p.dtype, p.device) for p in model.parameters()}) == 1
    )


def _has_parts(inner: Any, kind: type) -> bool:
    """Returns True if the modules are of the family's own classes, not of a subclass or another family."""
    parts = [(inner, "Model"), (inner.rotary_emb, "RotaryEmbedding"), (inner.norm, "RMSNorm")]
    for layer in inner.layers:
        parts += [
            (layer, "DecoderLayer"),
            (layer.self_attn, "Attention"),
            *((norm, "RMSNorm") for norm in _norms(layer)),
        ]
    family = kind.__name__.removesuffix("ForCausalLM")
    of_family = all(
        type(part).__qualname__ == family + name and type(part).__module__ == kind.__module__
        for part, name in parts
    )
    containers = type(inner.embed_tokens) is nn.Embedding and type(inner.layers) is nn.ModuleList
    plain = [inner.embed_tokens, *(part for part, name in parts if name == "RMSNorm")]
    return of_family and containers and not any(odd_parameter("weight", module.weight) for module in plain)


def _fixed_angles(model: PreTrainedModel) -> bool:
    """Returns True if the rotary angles of a position do not depend on the length of the text."""
    kinds = {
        model.model.rotary_emb.rope_type,
        (model.config.rope_parameters or {}).get("rope_type", "default"),
    }
    return kinds.isdisjoint(("dynamic", "longrope"))


def _is_ordinary(model: PreTrainedModel, place: int, layer: Any) -> bool:
    """Returns True if the attention of layer `place` is the one `Block` describes.

    It is causal, it scales by the head width, and every key-value head serves the same number of query heads.
    """
    attention, config, width = layer.self_attn, model.config, model.model.layers[0].self_attn.head_dim
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    linears = [getattr(attention, name) for name in ("q_proj", "k_proj", "v_proj", "o_proj")]
    if any(type(module) is not nn.Linear for module in linears):
        return False
    eps = [norm.variance_epsilon for norm in _head_norms(attention)]
    return (
        attention.config is config
        and attention.layer_idx == place  # the cache layer that it writes to
        and attention.head_dim == width
        and attention.scaling == width**-0.5
        and attention.is_causal is True
        and getattr(attention, "sliding_window", None) is None
        and [len(module.weight) for module in linears[:3]]
        == [heads * width, kv_heads * width, kv_heads * width]
        and attention.num_key_value_groups == heads // kv_heads
        and len(eps) in (0, 2)
        and len(set(eps)) < 2
    )


def read(model: PreTrainedModel) -> DecoderWeights:
    """Reads the parts of a model that is `readable`."""
    config, inner = model.config, model.model
    return DecoderWeights(
        embedding=inner.embed_tokens.weight.detach(),
        blocks=tuple(_block(layer) for layer in inner.layers),
        norm=_norm(inner.norm),
        head=model.lm_head,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_width=inner.layers[0].self_attn.head_dim,
        rotary=inner.rotary_emb,
    )


def slides(config: Any) -> bool:
    """Returns True if some layer attends to a window only."""
    kinds = getattr(config, "layer_types", None)
    return (
        any(kind != "full_attention" for kind in kinds)
        if kinds
        else getattr(config, "sliding_window", None) is not None
    )


def _norms(layer: Any) -> list[Any]:
    return [layer.input_layernorm, layer.post_attention_layernorm, *_head_norms(layer.self_attn)]


def _head_norms(attention: Any) -> list[Any]:
    """Returns the per-head norms of queries and keys, if the family has them."""
    norms = (getattr(attention, name, None) for name in ("q_norm", "k_norm"))
    return [norm for norm in norms if norm is not None]


def _block(layer: Any) -> Block:
    attention = layer.self_attn
    query_norm, key_norm = map(_norm, _head_norms(attention)) if _head_norms(attention) else (None, None)
    return Block(
        attention_norm=_norm(layer.input_layernorm),
        qkv=joined([attention.q_proj, attention.k_proj, attention.v_proj]),
        query_norm=query_norm,
        key_norm=key_norm,
        output=attention.o_proj,
        ffn_norm=_norm(layer.post_attention_layernorm),
        ffn=layer.mlp,
    )


def _norm(module: Any) -> Norm:
    return Norm(module.weight.detach(), module.variance_epsilon)
