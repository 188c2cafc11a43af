"""Functions count as shipped if their code objects come from the libraries, under their own names."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers import masking_utils
from transformers.models.gemma2.modeling_gemma2 import Gemma2Attention
from transformers.models.llama import modeling_llama
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaModel, LlamaRotaryEmbedding

from families import FAMILIES, build
from regrow.adapter.llama_like import readable
from regrow.adapter.pristine import pristine, structure
from regrow.adapter.shipped import class_is_shipped, functions_are_shipped, is_shipped


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_models_come_as_shipped(family: str) -> None:
    assert pristine(build(family))


@pytest.mark.parametrize("kind", [LlamaAttention, LlamaModel, LlamaRotaryEmbedding, nn.Linear, nn.Module])
def test_classes_of_the_libraries_are_shipped_decorators_included(kind: type) -> None:
    assert class_is_shipped(kind)


def test_classes_and_modules_of_anybody_else_are_not() -> None:
    class Own(nn.Module):
        def forward(self) -> None: ...

    assert not class_is_shipped(Own)
    assert not functions_are_shipped(pytest)


FORWARD = LlamaAttention.forward


@functools.wraps(FORWARD)
def wrapped(*args: Any) -> Any:
    return FORWARD(*args)


REPLACEMENTS: dict[str, Any] = {
    "wrapped": wrapped,
    "wrapped and decorated by torch": torch.no_grad()(wrapped),
    "lambda": lambda *_: None,
    "partial": functools.partial(FORWARD),
    "property": property(wrapped),
    "class method": classmethod(wrapped),
    "static method": staticmethod(wrapped),
    "cached": functools.lru_cache(wrapped),
    "compiled": torch.compile(FORWARD, backend="eager"),
    "of another class": Gemma2Attention.forward,
    "of another name": modeling_llama.LlamaMLP.forward,
}


@pytest.mark.parametrize("name", REPLACEMENTS)
def test_a_replacement_is_told_whatever_it_is_called(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LlamaAttention, "forward", REPLACEMENTS[name])
    assert not class_is_shipped(LlamaAttention)


def test_a_model_that_was_compiled_leaves_others_as_shipped() -> None:
    """The compiler adds a method of its own to nn.Module."""
    compiled: Any = build("llama")
    compiled.compile(backend="eager")
    compiled(torch.ones(1, 4, dtype=torch.int64))
    assert not pristine(compiled)
    assert pristine(build("llama"))


def test_a_decorator_of_torch_leaves_a_function_shipped() -> None:
    assert is_shipped(torch.no_grad()(FORWARD), "LlamaAttention.forward")


@pytest.mark.parametrize("kept", ["from_pretrained", "save_pretrained", "generate"])
def test_what_never_runs_while_decoding_may_be_wrapped(kept: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = build("llama")
    monkeypatch.setattr(type(model), kept, wrapped)
    assert readable(model)


def test_functions_of_a_module_are_known_by_the_names_they_have_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert functions_are_shipped(masking_utils)
    monkeypatch.setattr(masking_utils, "causal_mask_function", masking_utils.bidirectional_mask_function)
    assert not functions_are_shipped(masking_utils)


SETTINGS: dict[str, Callable[[Any], object]] = {
    "attribute": lambda model: setattr(model.model.layers[1].self_attn, "scaling", 1.0),
    "epsilon": lambda model: setattr(model.model.norm, "variance_epsilon", 1.0),
    "config": lambda model: setattr(model.config, "sliding_window", 3),
    "buffer": lambda model: model.model.rotary_emb.inv_freq.data.mul_(2),
    "class": lambda model: setattr(
        model.model.norm, "__class__", type("Norm", (type(model.model.norm),), {})
    ),
    "training": lambda model: model.model.layers[0].train(),
    "dtype": lambda model: model.double(),
}


@pytest.mark.parametrize("what", SETTINGS)
def test_the_structure_tells_settings_apart(what: str) -> None:
    model = build("llama")
    before = structure(model)
    assert before == structure(model)
    SETTINGS[what](model)
    assert structure(model) != before


def test_values_of_weights_are_no_structure() -> None:
    model = build("llama")
    before = structure(model)
    for parameter in model.parameters():
        parameter.data.normal_()
    assert structure(model) == before


ODD: dict[str, Callable[[Any], object]] = {
    "the layer of the cache": lambda model: setattr(model.model.layers[1].self_attn, "layer_idx", 0),
    "a config of its own": lambda model: setattr(
        model.model.layers[1].self_attn, "config", type(model.config)()
    ),
    "scaling": lambda model: setattr(model.model.layers[1].self_attn, "scaling", 1.0),
    "sees what follows": lambda model: setattr(model.model.layers[1].self_attn, "is_causal", False),
    "window": lambda model: setattr(model.model.layers[1].self_attn, "sliding_window", 3),
    "groups": lambda model: setattr(model.model.layers[1].self_attn, "num_key_value_groups", 4),
    "heads": lambda model: setattr(model.config, "num_attention_heads", 8),
    "angles of the module": lambda model: setattr(model.model.rotary_emb, "rope_type", "dynamic"),
    "one dtype": lambda model: model.lm_head.double(),
    "one epsilon for queries and keys": lambda model: setattr(
        model.model.layers[1].self_attn.q_norm, "variance_epsilon", 1.0
    ),
    "embeddings of their length": lambda model: setattr(model.model.embed_tokens, "max_norm", 1.0),
}


@pytest.mark.parametrize("what", ODD)
def test_what_reading_a_model_relies_on_is_looked_at(what: str) -> None:
    model = build("qwen3")
    assert readable(model)
    ODD[what](model)
    assert not readable(model)
