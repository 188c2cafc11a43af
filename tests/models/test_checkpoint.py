"""Weights that are incomplete or do not match the configuration are refused, never drawn at random."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from families import build
from model_files import Tensors, edit_json, edit_tensors, one_sentence, without
from regrow.errors import RegrowError, UsageError
from regrow.models import load

CHANGES: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "a norm is missing": (without("model.norm.weight"), r"is incomplete: model\.norm\.weight is missing"),
    "a bias is missing": (
        without("model.layers.0.self_attn.q_proj.bias"),
        "is incomplete: .*q_proj.bias is missing",
    ),
    "an untied head is missing": (without("lm_head.weight"), r"is incomplete: lm_head\.weight is missing"),
    "a layer is missing": (
        lambda tensors: {name: tensor for name, tensor in tensors.items() if "layers.1." not in name},
        r"is incomplete: model\.layers\.1\..* and 11 more tensors are missing",
    ),
    "every name has a prefix": (
        lambda tensors: {f"module.{name}": tensor for name, tensor in tensors.items()},
        r"is incomplete: .* 26 more tensors are missing .*, and there is module\.lm_head\.weight instead",
    ),
    "one tensor is renamed": (
        lambda tensors: {
            name.replace("model.norm", "model.final_norm"): tensor for name, tensor in tensors.items()
        },
        r"model\.norm\.weight is missing .*, and there is model\.final_norm\.weight instead",
    ),
    "nothing of it is there": (lambda _: {"x": torch.ones(1)}, "26 more tensors are missing"),
    "a size is wrong": (
        lambda tensors: tensors | {"model.norm.weight": torch.ones(8)},
        r"model\.norm\.weight has the shape \[8\], not \[32\]",
    ),
    "a layer has more than the architecture": (
        lambda tensors: tensors | {"model.layers.0.self_attn.q_norm.weight": torch.ones(8)},
        r"q_norm\.weight is unknown to Qwen2ForCausalLM",
    ),
    "there are more layers": (
        lambda tensors: tensors | {"model.layers.2.mlp.up_proj.weight": torch.ones(64, 32)},
        r"model\.layers\.2\.mlp\.up_proj\.weight is unknown",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_weights_that_are_not_those_of_the_configuration_are_refused(copy: Path, change: str) -> None:
    edit_tensors(copy, CHANGES[change][0])
    with pytest.raises(RegrowError, match=CHANGES[change][1]) as refusal:
        load(copy)
    one_sentence(refusal.value)


def test_biases_that_another_architecture_would_drop_are_refused(copy: Path) -> None:
    edit_json(copy / "config.json", model_type="llama", architectures=["LlamaForCausalLM"])
    with pytest.raises(RegrowError, match=r"k_proj\.bias and 5 more tensors are unknown to LlamaForCausalLM"):
        load(copy)


@pytest.mark.parametrize("setting", [{"hidden_size": 64}, {"intermediate_size": 128}, {"vocab_size": 90}])
def test_sizes_of_another_model_are_refused(copy: Path, setting: dict[str, int]) -> None:
    edit_json(copy / "config.json", **setting)
    with pytest.raises(RegrowError, match=r"do not match its config\.json: .* has the shape"):
        load(copy)


def _without_buffers(model: PreTrainedModel) -> Tensors:
    return dict(model.named_parameters())


def _loads_as_in_transformers(directory: Path) -> None:
    stock = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    ours = load(directory).model
    expected, found = _without_buffers(stock), _without_buffers(ours)
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert torch.equal(ours.get_output_embeddings().weight, stock.get_output_embeddings().weight)


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_may_be_left_out_only_where_it_is_tied(copy: Path, tied: bool) -> None:
    edit_tensors(copy, without("lm_head.weight"))
    edit_json(copy / "config.json", tie_word_embeddings=tied)
    if tied:
        _loads_as_in_transformers(copy)
    else:
        with pytest.raises(RegrowError, match=r"lm_head\.weight is missing"):
            load(copy)


def test_a_tied_head_may_be_the_only_one_that_is_stored(copy: Path) -> None:
    embedding = load_file(copy / "model.safetensors")["model.embed_tokens.weight"]
    edit_json(copy / "config.json", tie_word_embeddings=True)
    edit_tensors(copy, lambda tensors: tensors | {"lm_head.weight": embedding})
    _loads_as_in_transformers(copy)
    edit_tensors(copy, without("lm_head.weight"))
    _loads_as_in_transformers(copy)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: {name.removeprefix("model."): tensor for name, tensor in tensors.items()},
        lambda tensors: tensors | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)},
        lambda tensors: tensors | {"v_head.summary.weight": torch.ones(1, 32)},
    ],
    ids=["saved without the head's prefix", "computed buffers", "a value head beside it"],
)
def test_older_and_larger_checkpoints_load_as_in_transformers(
    copy: Path, change: Callable[[Tensors], Tensors]
) -> None:
    edit_tensors(copy, change)
    _loads_as_in_transformers(copy)


def test_experts_that_transformers_joins_while_loading_are_not_missing(copy: Path) -> None:
    mixture = build("mixtral")
    mixture.save_pretrained(copy)
    assert any("experts.3" in name for name in load_file(copy / "model.safetensors"))
    loaded = load(copy)
    assert all(
        torch.equal(tensor, mixture.state_dict()[name]) for name, tensor in loaded.model.state_dict().items()
    )


# Weights in several files


@pytest.fixture
def sharded(copy: Path) -> Path:
    (copy / "model.safetensors").unlink()
    build("qwen2").save_pretrained(copy, max_shard_size="20KB")
    return copy


def test_weights_in_several_files_load(sharded: Path) -> None:
    assert len(list(sharded.glob("*.safetensors"))) > 3
    _loads_as_in_transformers(sharded)


def test_a_missing_shard_is_named(sharded: Path) -> None:
    (sharded / "model-00002-of-00007.safetensors").unlink()
    with pytest.raises(
        RegrowError, match=r"is incomplete: model-00002-of-00007\.safetensors, which .* names, is not there"
    ):
        load(sharded)


def test_a_tensor_that_its_shard_lacks_is_named(sharded: Path) -> None:
    index = sharded / "model.safetensors.index.json"
    places = json.loads(index.read_text())["weight_map"]
    edit_json(
        index,
        weight_map=places
        | {"model.norm.weight": places["lm_head.weight"], "model.extra": places["lm_head.weight"]},
    )
    with pytest.raises(RegrowError, match=r"lacks model\.(norm\.weight|extra), which .* places there"):
        load(sharded)


def test_shards_without_their_index_are_refused(sharded: Path) -> None:
    (sharded / "model.safetensors.index.json").unlink()
    with pytest.raises(RegrowError, match=r"neither model\.safetensors nor model\.safetensors\.index\.json"):
        load(sharded)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', '{"weight_map": {"a": 3}}']
)
def test_a_damaged_index_is_named(sharded: Path, text: str) -> None:
    (sharded / "model.safetensors.index.json").write_text(text)
    with pytest.raises(RegrowError, match=r"model\.safetensors\.index\.json is damaged") as refusal:
        load(sharded)
    one_sentence(refusal.value)


# Quantised weights whose configuration does not say so


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("model.layers.0.mlp.up_proj.qweight", torch.ones(4, 64, dtype=torch.int32)),
        ("model.layers.0.mlp.up_proj.weight_scale", torch.ones(64, 1)),
        ("model.layers.0.mlp.up_proj.weight", torch.ones(64, 32, dtype=torch.int8)),
        ("model.layers.0.mlp.up_proj.weight", torch.ones(64, 32).to(torch.float8_e4m3fn)),
    ],
    ids=["packed", "scaled", "int8", "float8"],
)
def test_quantised_weights_are_refused_by_what_they_hold(copy: Path, name: str, tensor: torch.Tensor) -> None:
    edit_tensors(copy, lambda tensors: tensors | {name: tensor})
    with pytest.raises(UsageError, match=f"is quantised \\(see {name}\\)"):
        load(copy)
