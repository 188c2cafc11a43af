"""A stand-in for a tokenizer, with one token for each character, and runs of a task with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from regrow.evaluation.run_task import evaluate
from regrow.evaluation.tasks import load
from regrow.method.griffin import Griffin
from regrow.models import Loaded
from regrow.records import Record
from timeless import timeless

TASK = load("tiny_reasoner")
FIRST = 3  # lowest token of a character; below are padding, start and end


class Characters:
    def decode(self, row: list[int], skip_special_tokens: bool, clean_up_tokenization_spaces: bool) -> str:
        assert skip_special_tokens
        assert not clean_up_tokenization_spaces
        return "".join(chr(33 + token - FIRST) for token in row if token >= FIRST)


def tokens_of(prompt: str) -> list[int]:
    return [FIRST + ord(character) % 93 for character in prompt]


def encode(loaded: Loaded, prompts: Sequence[str], chat: bool, system: str) -> tuple[Tensor, Tensor]:
    rows = [tokens_of(prompt) for prompt in prompts]
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    return ids, torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])


def evaluate_task(loaded: Loaded, path: Path, **changes: Any) -> None:
    """Evaluates the first five exercises with GRIFFIN, or as `changes` say."""
    settings = {"batch_size": 2, "max_new_tokens": 6, "path": path, "chat": False}
    task = changes.pop("task", TASK).first(changes.pop("limit", 5))
    evaluate(loaded, task, changes.pop("method", Griffin()), **settings | changes)


def timeless_all(records: Sequence[Record]) -> list[Record]:
    return [timeless(record) for record in records]
