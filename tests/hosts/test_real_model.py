"""A real model (SmolLM2-135M-Instruct, which went through 4 bits once) through the public API."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import regrow
from regrow.models import Loaded, load

_QUESTIONS = ["What is the capital of France?", "Is water wet? Answer in one sentence."]
_NEW = 16


@pytest.fixture(scope="module")
def loaded(smollm2: Path) -> Loaded:
    return load(smollm2, dtype="float32", device="cpu")


def test_it_answers_and_unpruned_neurons_change_no_token(loaded: Loaded) -> None:
    tokenizer = loaded.tokenizer
    chats = [[{"role": "user", "content": question}] for question in _QUESTIONS]
    texts = tokenizer.apply_chat_template(chats, add_generation_prompt=True, tokenize=False)
    inputs = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left")
    settings = {"do_sample": False, "max_new_tokens": _NEW}
    dense = loaded.model.generate(**inputs, **settings)
    with regrow.prune(loaded.model, regrow.BatchwiseAdaptive(sparsity=0)) as session:
        pruned = loaded.model.generate(**inputs, **settings)
    assert torch.equal(pruned, dense)
    assert "The capital of France is Paris." in loaded.decode(dense[0].tolist())
    assert session.report().decode_steps == pruned.shape[1] - inputs["input_ids"].shape[1] - 1


def test_the_tokenizer_gives_texts_back(loaded: Loaded) -> None:
    tokenizer = loaded.tokenizer
    text = "On 12.3.2026:\n\n1. naïve café — 3 × 45 = 135 😀"
    assert loaded.decode(tokenizer.encode(text)) == text
    assert tokenizer.tokenize("\n\n12") == ["ĊĊ", "1", "2"]  # digits are set apart before all else
