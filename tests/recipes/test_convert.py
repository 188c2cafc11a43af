"""Converts tiny GGUF files, whose blocks the gguf package also unpacks by itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import is_offline_mode
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

gguf = pytest.importorskip("gguf", reason="the package gguf is not installed (extra real-models)")
pytest.importorskip("accelerate", reason="the package accelerate is not installed (extra real-models)")

from convert import convert  # noqa: E402

_WIDTH, _NEURONS, _HEADS = 32, 64, 4
_TOKENS = ["<|endoftext|>", "<|im_end|>", "1", "2", "12", "Ġ", "a"]


def _tensors() -> dict[str, tuple[int, ...]]:
    square, tall, table = (_WIDTH, _WIDTH), (_NEURONS, _WIDTH), (len(_TOKENS), _WIDTH)
    block = {f"attn_{x}": square for x in ("q", "k", "v", "output")} | {"ffn_gate": tall, "ffn_up": tall}
    block |= {"ffn_down": (_WIDTH, _NEURONS), "attn_norm": (_WIDTH,), "ffn_norm": (_WIDTH,)}
    shapes = {f"blk.0.{name}": shape for name, shape in block.items()} | {"output_norm": (_WIDTH,)}
    return {f"{name}.weight": shape for name, shape in (shapes | {"token_embd": table}).items()}


def _write(path: Path, head: bool) -> dict[str, np.ndarray]:
    """Write a Llama of one layer; return what its tensors hold once they are unpacked."""
    random = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("Title of the file")
    writer.add_context_length(64)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(_NEURONS)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(_TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(_TOKENS)
    writer.add_token_types([3, 3, 1, 1, 1, 1, 1])
    writer.add_token_merges(["1 2"])
    writer.add_eos_token_id(1)
    writer.add_bos_token_id(0)
    writer.add_pad_token_id(0)
    writer.add_chat_template("{{ messages[0]['content'] }}<|im_end|>")
    unpacked = {}
    for name, shape in (_tensors() | ({"output.weight": (len(_TOKENS), _WIDTH)} if head else {})).items():
        values = random.standard_normal(shape, dtype=np.float32)
        kind = gguf.GGMLQuantizationType.Q4_1 if len(shape) == 2 else gguf.GGMLQuantizationType.F32
        packed = gguf.quants.quantize(values, kind)
        unpacked[name] = gguf.quants.dequantize(packed, kind)
        writer.add_tensor(name, packed, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return unpacked


@pytest.fixture(scope="module", params=[False, True], ids=["one table", "head apart"])
def converted(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, np.ndarray]]:
    folder = tmp_path_factory.mktemp("converted")
    (folder / "model").mkdir()
    unpacked = _write(folder / "tiny.gguf", request.param)
    convert(folder / "tiny.gguf", folder / "model", digits_apart=True)
    return folder / "model", unpacked


def test_weights_are_the_unpacked_ones_rounded_to_bfloat16(
    converted: tuple[Path, dict[str, np.ndarray]],
) -> None:
    folder, unpacked = converted
    stored = load_file(folder / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    assert len(stored) == len(_tensors())
    for ours, theirs in {
        "layers.0.self_attn.v_proj": "blk.0.attn_v",
        "layers.0.mlp.gate_proj": "blk.0.ffn_gate",
        "layers.0.mlp.up_proj": "blk.0.ffn_up",
        "layers.0.mlp.down_proj": "blk.0.ffn_down",
        "layers.0.post_attention_layernorm": "blk.0.ffn_norm",
        "embed_tokens": "output" if "output.weight" in unpacked else "token_embd",
    }.items():
        rounded = torch.from_numpy(unpacked[f"{theirs}.weight"].copy()).to(torch.bfloat16)
        assert torch.equal(stored[f"model.{ours}.weight"], rounded), ours


def test_queries_and_keys_are_in_the_order_of_transformers(
    converted: tuple[Path, dict[str, np.ndarray]],
) -> None:
    """GGUF stores rows that rotate together side by side, transformers half a head apart."""
    folder, unpacked = converted
    stored = load_file(folder / "model.safetensors")
    for name in ("q", "k"):
        pairs = torch.from_numpy(unpacked[f"blk.0.attn_{name}.weight"].copy()).to(torch.bfloat16)
        heads = pairs.reshape(_HEADS, _WIDTH // _HEADS, _WIDTH)
        expected = torch.cat([heads[:, 0::2], heads[:, 1::2]], dim=1).reshape(_WIDTH, _WIDTH)
        assert torch.equal(stored[f"model.layers.0.self_attn.{name}_proj.weight"], expected), name


def test_the_model_is_plain_and_tied(converted: tuple[Path, dict[str, np.ndarray]]) -> None:
    folder, _ = converted
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype is torch.bfloat16
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert not getattr(model, "is_quantized", False)
    assert model.generation_config.eos_token_id == 1
    assert model.generation_config.pad_token_id == 0


def test_nothing_names_the_machine(converted: tuple[Path, dict[str, np.ndarray]]) -> None:
    folder, _ = converted
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        text = (folder / name).read_text()
        assert str(folder.parent) not in text
        assert "name_or_path" not in text
        assert "quantization" not in text
        assert "Title of the file" not in text
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]


def test_the_files_do_not_depend_on_the_offline_mode(converted: tuple[Path, dict[str, np.ndarray]]) -> None:
    assert is_offline_mode()
    assert json.loads((converted[0] / "tokenizer_config.json").read_text())["local_files_only"] is False


def test_digits_stay_apart_and_the_chat_template_is_there(
    converted: tuple[Path, dict[str, np.ndarray]],
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(converted[0])
    assert tokenizer.tokenize("12") == ["1", "2"]
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False)
    assert chat == "a<|im_end|>"
    assert tokenizer.eos_token_id == 1
