"""Unusable or damaged configurations are refused with one sentence, before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from model_files import edit_json, one_sentence
from regrow.errors import RegrowError, UsageError
from regrow.models import load


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails the test if a model or tokenizer is loaded."""

    def heavy(*_: object, **__: object) -> None:
        raise AssertionError("something heavy is loaded")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", heavy)
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", heavy)


QUANTISED = ["gptq", "awq", "bitsandbytes", "fp8", "compressed-tensors", "torchao", "mxfp4", "not-yet-known"]


@pytest.mark.usefixtures("light")
@pytest.mark.parametrize("method", QUANTISED)
def test_quantised_models_are_refused_whatever_the_method(copy: Path, method: str) -> None:
    edit_json(copy / "config.json", quantization_config={"quant_method": method, "bits": 4})
    with pytest.raises(UsageError, match=rf"is quantised \({method}\), .*; load the model it was made from"):
        load(copy)


@pytest.mark.usefixtures("light")
@pytest.mark.parametrize(
    "setting",
    [
        {"quantization_config": {}},
        {"quantization_config": "x"},
        {"quantization_config": {"quant_method": 3}},
        {"compression_config": {"format": "pack-quantized"}},
        {"text_config": {"quantization_config": {"quant_method": "gptq"}}},
    ],
)
def test_quantised_models_are_refused_wherever_they_say_so(copy: Path, setting: dict[str, object]) -> None:
    edit_json(copy / "config.json", **setting)
    with pytest.raises(UsageError, match="is quantised"):
        load(copy)


@pytest.mark.usefixtures("light")
@pytest.mark.parametrize("name", ["quantize_config.json", "quant_config.json"])
def test_quantised_models_of_older_tools_are_refused(copy: Path, name: str) -> None:
    (copy / name).write_text('{"bits": 4}')
    with pytest.raises(UsageError, match="is quantised"):
        load(copy)


def test_a_quantisation_of_null_is_none(copy: Path) -> None:
    edit_json(copy / "config.json", quantization_config=None)
    assert load(copy).model.dtype == torch.float32


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
@pytest.mark.parametrize("wanted", ["flash_attention_2", "flash_attention_3", "nonsense"])
def test_an_attention_that_is_not_installed_is_named(copy: Path, key: str, wanted: str) -> None:
    edit_json(copy / "config.json", **{key: wanted})
    with pytest.raises(
        RegrowError, match=f"the attention implementation '{wanted}' needs, or take that out of"
    ) as refusal:
        load(copy)
    one_sentence(refusal.value)


@pytest.mark.parametrize("wanted", ["kernels-community/flash-attn", "org/kernel@v1:attend"])
def test_an_attention_that_is_code_of_the_hub_needs_trust(copy: Path, wanted: str) -> None:
    edit_json(copy / "config.json", _attn_implementation=wanted)
    for _ in range(2):  # the second time, transformers knows it already
        with pytest.raises(
            UsageError, match=r"which is code from the hub; .* --trust-remote-code if you trust it"
        ):
            load(copy)


@pytest.mark.parametrize("wanted", ["eager", "sdpa", "flex_attention"])
def test_an_attention_that_torch_has_is_used(copy: Path, wanted: str) -> None:
    edit_json(copy / "config.json", _attn_implementation=wanted)
    assert load(copy).model.config._attn_implementation == wanted


VALUES: list[tuple[str, object, str]] = [
    ("hidden_size", "abc", "hidden_size.* expected int"),
    ("hidden_size", -4, "hidden_size -4, which must be at least 1"),
    ("hidden_size", 0, "hidden_size 0, which must be at least 1"),
    ("vocab_size", 0, "vocab_size 0, which must be at least 1"),
    ("vocab_size", None, "vocab_size.* expected int"),
    ("num_hidden_layers", -1, "num_hidden_layers"),
    ("num_hidden_layers", 1.5, "num_hidden_layers.* expected int"),
    ("num_attention_heads", 0, "num_attention_heads 0, which must be at least 1"),
    ("num_attention_heads", 5, "5 num_attention_heads, not a multiple of its 2 num_key_value_heads"),
    ("num_key_value_heads", 3, "4 num_attention_heads, not a multiple of its 3 num_key_value_heads"),
    ("max_position_embeddings", "512", "max_position_embeddings.* expected int"),
    ("max_position_embeddings", -1, "max_position_embeddings -1, which must be at least 1"),
    ("sliding_window", -1, "sliding_window -1, which must be at least 1"),
    ("eos_token_id", "3", "eos_token_id"),
    ("eos_token_id", {}, "eos_token_id"),
    ("pad_token_id", 500, "pad_token_id 500 lies beyond its vocab_size 96"),
    ("hidden_act", "nonsense", "hidden_act 'nonsense', which transformers does not know"),
    ("hidden_act", 3, "hidden_act.* expected str"),
    ("rms_norm_eps", "x", "rms_norm_eps"),
    ("rope_parameters", "x", "rope_parameters"),
    ("rope_parameters", {"rope_type": "nonsense"}, "rope_type 'nonsense', which transformers does not know"),
    ("rope_parameters", {"rope_type": "default", "rope_theta": "a"}, "cannot be loaded"),
    ("rope_parameters", {"rope_type": "linear"}, "factor"),
    ("layer_types", ["full_attention"], "layer_types"),
    ("layer_types", ["a", "b"], "layer_types"),
    ("tie_word_embeddings", "yes", "tie_word_embeddings"),
    ("dtype", "nonsense", "nonsense"),
    ("dtype", "int8", "dtype int8, which is not a floating-point dtype"),
    ("dtype", 3, "dtype 3, which is not a floating-point dtype"),
    ("model_type", 3, "names no model_type"),
    ("model_type", None, "names no model_type"),
]


@pytest.mark.parametrize(("key", "value", "says"), VALUES)
def test_values_that_cannot_be_met_are_named(copy: Path, key: str, value: object, says: str) -> None:
    edit_json(copy / "config.json", use_sliding_window=True, **{key: value})
    with pytest.raises(RegrowError, match=says) as refusal:
        load(copy)
    assert "config.json" in one_sentence(refusal.value)
    assert refusal.value.exit_code == 1


OTHERS: list[tuple[dict[str, object], str]] = [
    ({"model_type": "nonsense"}, "of type 'nonsense', which transformers .* does not know; use a model"),
    (
        {"model_type": "nonsense", "auto_map": {"AutoConfig": "a.B"}},
        "does not know; if you trust .* --trust-remote-code",
    ),
    ({"model_type": "t5"}, "not a causal language model: .* describes the type 't5'"),
    ({"model_type": "vit"}, "not a causal language model: .* describes the type 'vit'"),
    ({"architectures": ["BertForMaskedLM"]}, "not a causal language model: .* describes a BertForMaskedLM"),
    ({"architectures": ["T5ForConditionalGeneration"]}, "not a causal language model: .* describes a T5For"),
    ({"architectures": ["ViTForImageClassification"]}, "not a causal language model: .* describes a ViTFor"),
    (
        {"architectures": ["Qwen2ForSequenceClassification"]},
        "not a causal language model: .* describes a Qwen2ForSeq",
    ),
]


@pytest.mark.usefixtures("light")
@pytest.mark.parametrize(("settings", "says"), OTHERS)
def test_models_of_another_kind_are_refused(copy: Path, settings: dict[str, object], says: str) -> None:
    edit_json(copy / "config.json", **settings)
    with pytest.raises(UsageError, match=says) as refusal:
        load(copy)
    one_sentence(refusal.value)


@pytest.mark.parametrize("classes", [None, [], 3, ["Qwen2Model"], ["OfAnotherTime"], ["LlamaForCausalLM"]])
def test_class_names_that_say_nothing_against_it_are_no_reason_to_refuse(copy: Path, classes: object) -> None:
    edit_json(copy / "config.json", architectures=classes)
    assert type(load(copy).model).__name__ == "Qwen2ForCausalLM"


DAMAGED = [b"", b"{", b"[]", b"null", b'"text"', b"\xff\xfe{\x00}\x00", b'{"a": "\xe9"}', b"[" * 100_000]


@pytest.mark.usefixtures("light")
@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
@pytest.mark.parametrize("data", DAMAGED, ids=range(len(DAMAGED)))
def test_files_that_hold_no_object_are_named(copy: Path, name: str, data: bytes) -> None:
    (copy / name).write_bytes(data)
    with pytest.raises(RegrowError, match=rf"/{name} is damaged, no JSON") as refusal:
        load(copy)
    one_sentence(refusal.value)


def test_a_directory_that_holds_an_adapter_says_so(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "org/base"}))
    with pytest.raises(UsageError, match="it holds an adapter; merge that into its base model"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["~no-such-user/model", "a" * 400, "a\0b"])
def test_names_that_no_directory_can_have_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="model directory") as refusal:
        load(name)
    one_sentence(refusal.value)
