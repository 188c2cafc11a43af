"""The parts of a decoder that Regrow can run itself: Llama, Mistral, Qwen2, Qwen3, whose blocks differ in biases and head norms only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import LlamaForCausalLM, MistralForCausalLM, PreTrainedModel, Qwen2ForCausalLM, Qwen3ForCausalLM

from regrow.adapter.plain import odd_linear, wrapped

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
    """One decoder layer: H query heads and H_kv key-value heads of d each, on a residual stream of width D."""

    attention_norm: Norm
    qkv: Callable[[Tensor], Tensor]  # [..., D] -> [..., (H + 2 H_kv) d]: queries, keys, values
    query_norm: Norm | None  # of each head
    key_norm: Norm | None
    output: Callable[[Tensor], Tensor]  # [..., H d] -> [..., D]
    ffn_norm: Norm
    ffn: Callable[[Tensor], Tensor]  # as the model has it, patched or not


@final
@dataclass(frozen=True)
class DecoderWeights:
    """A decoder as a value. Weights are the model's own, but for the query, key and value weights, which are laid side by side."""

    embedding: Tensor  # [V, D]
    blocks: tuple[Block, ...]
    norm: Norm
    head: Tensor  # [V, D]
    head_bias: Tensor | None
    heads: int
    kv_heads: int
    head_width: int
    rotary: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # (any tensor of the dtype, positions [1, P]) -> cos, sin [1, P, d]


def readable(model: PreTrainedModel) -> bool:
    """Whether this is a family that is known here, and nothing else hooks into what `read` goes around."""
    if type(model) not in FAMILIES or model.training:
        return False
    config, inner = model.config, model.model
    rope: dict[str, Any] = config.rope_parameters or {}
    static = rope.get("rope_type", "default") not in ("dynamic", "longrope")  # those change their angles as the text grows
    if not static or slides(config) or odd_linear(model.lm_head) or type(inner.embed_tokens) is not nn.Embedding:
        return False
    norms = [inner.norm, *chain.from_iterable(map(_norms, inner.layers))]
    if {type(norm) for norm in norms} != {type(inner.norm)} or type(inner.norm).__module__ != type(model).__module__:
        return False
    around = [model, inner, inner.embed_tokens, inner.rotary_emb, *inner.layers, *(layer.self_attn for layer in inner.layers), *norms]
    return not any(map(wrapped, around))


def read(model: PreTrainedModel) -> DecoderWeights:
    """The parts of a model that is `readable`."""
    config, inner, head = model.config, model.model, model.lm_head
    return DecoderWeights(
        embedding=inner.embed_tokens.weight.detach(),
        blocks=tuple(_block(layer) for layer in inner.layers),
        norm=_norm(inner.norm),
        head=head.weight.detach(),
        head_bias=None if head.bias is None else head.bias.detach(),
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_width=inner.layers[0].self_attn.head_dim,
        rotary=inner.rotary_emb,
    )


def slides(config: Any) -> bool:
    """Whether some layer attends to a window only."""
    kinds = getattr(config, "layer_types", None)
    return any(kind != "full_attention" for kind in kinds) if kinds else getattr(config, "sliding_window", None) is not None


def _norms(layer: Any) -> list[nn.Module]:
    attention = layer.self_attn
    norms = (layer.input_layernorm, layer.post_attention_layernorm, getattr(attention, "q_norm", None), getattr(attention, "k_norm", None))
    return [norm for norm in norms if norm is not None]


def _block(layer: Any) -> Block:
    attention = layer.self_attn
    heads = [getattr(attention, name, None) for name in ("q_norm", "k_norm")]
    query_norm, key_norm = (None if norm is None else _norm(norm) for norm in heads)
    return Block(
        attention_norm=_norm(layer.input_layernorm),
        qkv=_side_by_side([attention.q_proj, attention.k_proj, attention.v_proj]),
        query_norm=query_norm,
        key_norm=key_norm,
        output=attention.o_proj,
        ffn_norm=_norm(layer.post_attention_layernorm),
        ffn=layer.mlp,
    )


def _norm(module: Any) -> Norm:
    return Norm(module.weight.detach(), module.variance_epsilon)


def _side_by_side(linears: list[nn.Linear]) -> Callable[[Tensor], Tensor]:
    """One linear in the place of several; where one of them is not an ordinary linear (a method may have patched it), each for itself."""
    if any(odd_linear(module) for module in linears):
        return lambda x: torch.cat([module(x) for module in linears], dim=-1)
    weight = torch.cat([module.weight.detach() for module in linears])
    biases = [module.weight.new_zeros(len(module.weight)) if module.bias is None else module.bias.detach() for module in linears]
    bias = torch.cat(biases) if any(module.bias is not None for module in linears) else None
    return lambda x: linear(x, weight, bias)
