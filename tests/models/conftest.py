from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from families import build
from regrow.bundled import model_path
from regrow.models import Loaded, load


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen2 with the bundled model's tokenizer."""
    out = tmp_path_factory.mktemp("model")
    build("qwen2").save_pretrained(out)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(model_path() / name, out / name)
    return out


@pytest.fixture
def copy(directory: Path, tmp_path: Path) -> Path:
    """A copy of `directory` that a test may damage."""
    return Path(shutil.copytree(directory, tmp_path / "copy"))


@pytest.fixture
def loaded(directory: Path) -> Loaded:
    return load(directory)
