from __future__ import annotations

import json
from pathlib import Path

import pytest

from regrow.models import load


def test_the_fingerprint_follows_weights_and_configuration(directory: Path, copy: Path) -> None:
    assert load(copy).fingerprint == load(directory).fingerprint
    weights = copy / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert load(copy).fingerprint != load(directory).fingerprint


@pytest.mark.parametrize(
    "name",
    ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "merges.txt", "tokenizer.model"],
)
def test_a_change_of_any_tokenizer_file_shows(directory: Path, copy: Path, name: str) -> None:
    before = load(directory).tokenizer_sha256
    assert load(copy).tokenizer_sha256 == before
    loaded = load(copy)
    with (copy / name).open("ab") as file:
        file.write(b"\n")
    assert loaded.tokenizer_sha256 != before


def test_the_chat_template_in_use_counts_wherever_it_lies(directory: Path, copy: Path) -> None:
    before = load(directory).chat_template_sha256
    template = copy / "chat_template.jinja"
    _edit(copy / "tokenizer_config.json", chat_template=template.read_text())
    template.unlink()
    assert load(copy).chat_template_sha256 == before
    _edit(copy / "tokenizer_config.json", chat_template="{{ messages[0].content }}")
    assert load(copy).chat_template_sha256 not in (before, None)
    _edit(copy / "tokenizer_config.json", chat_template=None)
    assert load(copy).chat_template_sha256 is None


def test_generation_settings_are_those_that_decide_tokens(copy: Path) -> None:
    generation = copy / "generation_config.json"
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    generation.write_text(json.dumps(ids | {"transformers_version": "5.0.0", "output_scores": True}))
    assert load(copy).generation_settings == ids
    watermark = {"bias": 2.0, "seeding_scheme": "selfhash"}
    _edit(generation, repetition_penalty=1.1, suppress_tokens=[5], watermarking_config=watermark)
    settings = load(copy).generation_settings
    assert settings["repetition_penalty"] == 1.1
    assert settings["suppress_tokens"] == [5]
    assert settings["watermarking_config"]["bias"] == 2.0
    assert json.loads(json.dumps(settings, allow_nan=False)) == settings


def test_generation_settings_of_a_model_without_that_file_are_its_configurations(copy: Path) -> None:
    (copy / "generation_config.json").unlink()
    assert load(copy).generation_settings == {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def _edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
