"""Generations equal the stored ones bit for bit, so that refactoring changes no token (golden.py)."""

from __future__ import annotations

import functools
import json
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

import golden
from families import build

EXPECTED: dict[str, Any] = json.loads(golden.FILE.read_text())


@functools.cache
def model_of(family: str) -> PreTrainedModel:
    return build(family, torch.float64)


def test_the_set_is_whole() -> None:
    assert [name for name, *_ in golden.entries()] == list(EXPECTED)


@pytest.mark.parametrize(
    ("name", "family", "method", "settings"),
    list(golden.entries()),
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_generation_is_what_it_was(name: str, family: str, method: str, settings: dict[str, Any]) -> None:
    assert golden.generation(model_of(family), method, settings) == EXPECTED[name]
