"""A small random model whose tokenizer is a stand-in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import characters
from families import build
from regrow.evaluation import run_task
from regrow.models import Loaded


@pytest.fixture
def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Loaded:
    monkeypatch.setattr(run_task, "encode", characters.encode)
    tokenizer: Any = characters.Characters()
    model = build("qwen2")
    model.save_pretrained(tmp_path / "model")
    return Loaded(model=model, tokenizer=tokenizer, name="tiny", directory=tmp_path / "model")
