from __future__ import annotations

from pathlib import Path

import pytest
import torch

from regrow.bundled import model_path
from regrow.errors import RegrowError, UsageError
from regrow.models import directory as directories
from regrow.models import load


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


def test_code_of_a_repository_is_not_fetched_unless_asked_for(
    monkeypatch: pytest.MonkeyPatch, directory: Path
) -> None:
    asked: list[list[str]] = []

    def download(name: str, allow_patterns: list[str]) -> str:
        asked.append(allow_patterns)
        return str(directory)

    monkeypatch.setattr(directories, "snapshot_download", download)
    load("org/name")
    load("org/name", trust_remote_code=True)
    assert ["*.py" in patterns for patterns in asked] == [False, True]
    assert all("*.bin" not in patterns for patterns in asked)


def test_an_unknown_hub_id_and_a_missing_directory_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="downloading it from the hub failed"):
        load("org/there-is-no-such-model")
    with pytest.raises(UsageError, match="no model directory"):
        load(tmp_path / "absent")


def test_pickled_weights_are_not_loaded(directory: Path, copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    torch.save({}, copy / "pytorch_model.bin")
    with pytest.raises(UsageError, match="no safetensors files"):
        load(copy)


def test_truncated_weights_are_named(directory: Path, copy: Path) -> None:
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(RegrowError, match=r"model\.safetensors is damaged"):
        load(copy)
