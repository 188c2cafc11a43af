from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from families import build
from regrow import models
from regrow.bundled import model_path
from regrow.errors import RegrowError, UsageError
from regrow.models import Loaded, encode, load


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen2 with the bundled model's tokenizer."""
    out = tmp_path_factory.mktemp("model")
    build("qwen2").save_pretrained(out)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(model_path() / name, out / name)
    return out


@pytest.fixture
def loaded(directory: Path) -> Loaded:
    return load(directory)


def test_the_bundled_model_is_what_the_package_ships() -> None:
    bundled = load()
    assert bundled.name == "tiny-reasoner"
    assert bundled.model.dtype == torch.bfloat16
    assert sum(path.stat().st_size for path in model_path().glob("*.safetensors")) <= 12_000_000
    assert bundled.model.config.intermediate_size >= 4 * bundled.model.config.hidden_size


def test_dtype_is_the_stored_one_or_the_one_asked_for(directory: Path) -> None:
    assert load(directory).model.dtype == torch.float32
    assert load(directory, dtype="float64").model.dtype == torch.float64
    assert not load(directory).model.training


def test_the_fingerprint_follows_weights_and_configuration(directory: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(directory, copy)
    assert load(copy).fingerprint == load(directory).fingerprint
    weights = copy / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert load(copy).fingerprint != load(directory).fingerprint


def test_encode_pads_on_the_left_with_a_mask(loaded: Loaded) -> None:
    ids, mask = encode(loaded, ["ab", "abcd"], chat=False)
    assert ids.tolist() == [[0, 0, 40, 41], [40, 41, 42, 43]]
    assert mask.tolist() == [[0, 0, 1, 1], [1, 1, 1, 1]]


def test_the_chat_template_is_used_where_there_is_one(loaded: Loaded) -> None:
    assert encode(loaded, ["a"])[0].tolist() == [[2, 40, 4]]
    loaded.tokenizer.chat_template = None
    assert encode(loaded, ["a"])[0].tolist() == [[40]]
    with pytest.raises(UsageError, match="no chat template"):
        encode(loaded, ["a"], chat=True)


@pytest.mark.parametrize(
    ("prompts", "says"), [([], "no prompts"), (["a", " \n"], "prompt 2 is empty"), (["a" * 10_000], "prompt 1 has .* tokens")]
)
def test_prompts_that_cannot_be_answered_are_refused(loaded: Loaded, prompts: list[str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        encode(loaded, prompts)


def test_code_of_a_repository_is_not_fetched_unless_asked_for(monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    asked: list[list[str]] = []

    def download(name: str, allow_patterns: list[str]) -> str:
        asked.append(allow_patterns)
        return str(directory)

    monkeypatch.setattr(models, "snapshot_download", download)
    load("org/name")
    load("org/name", trust_remote_code=True)
    assert ["*.py" in patterns for patterns in asked] == [False, True]
    assert all("*.bin" not in patterns for patterns in asked)


def test_an_unknown_hub_id_and_a_missing_directory_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the hub does not give it"):
        load("org/there-is-no-such-model")
    with pytest.raises(UsageError, match="no model directory"):
        load(tmp_path / "absent")


def test_pickled_weights_are_not_loaded(directory: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(directory, copy)
    (copy / "model.safetensors").unlink()
    torch.save({}, copy / "pytorch_model.bin")
    with pytest.raises(UsageError, match="no safetensors files"):
        load(copy)


def test_truncated_weights_are_named(directory: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(directory, copy)
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(RegrowError, match=r"model\.safetensors is damaged"):
        load(copy)
