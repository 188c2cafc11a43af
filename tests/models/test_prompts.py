from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers.processors import TemplateProcessing

import regrow
from model_files import edit_json, one_sentence
from regrow.errors import RegrowError, UsageError
from regrow.models import Loaded, encode, load


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


def test_a_text_that_begins_with_the_bos_gets_no_second_one(loaded: Loaded) -> None:
    tokenizer: Any = loaded.tokenizer
    bos = (tokenizer.bos_token, tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{bos[0]} $A", special_tokens=[bos]
    )
    for text in ("ab", f"{bos[0]}ab"):
        assert encode(loaded, [text], chat=False)[0].tolist() == [[bos[1], 40, 41]]


@pytest.mark.parametrize(
    ("prompts", "says"),
    [([], "no prompts"), (["a", " \n"], "prompt 2 is empty"), (["a" * 10_000], "prompt 1 has .* tokens")],
)
def test_prompts_that_cannot_be_answered_are_refused(loaded: Loaded, prompts: list[str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        encode(loaded, prompts)


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("half", ["\ud800", "a\udfff b"])
def test_half_a_character_is_refused_with_its_prompt(loaded: Loaded, half: str, chat: bool) -> None:
    with pytest.raises(
        UsageError, match=r"prompt 2 is not valid Unicode \(half a character, '\\ud"
    ) as refusal:
        encode(loaded, ["a", half], chat=chat)
    one_sentence(refusal.value).encode()


def test_prompts_that_are_no_texts_are_refused(loaded: Loaded) -> None:
    with pytest.raises(UsageError, match="prompt 1 is a int; prompts must be texts"):
        encode(loaded, [3])  # type: ignore[list-item]


TEMPLATES = [
    "{% if",
    "{{ raise_exception('no system role') }}",
    "{{ messages.foo.bar }}",
    "{{ 1 + 'a' }}",
    "{{ 1 / 0 }}",
    "{% for message in messages %}{{ message['absent']['x'] }}{% endfor %}",
    "{{ nonsense() }}",
    "{% include 'x' %}",
]


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_chat_template_that_fails_is_named_and_can_be_left_out(copy: Path, template: str) -> None:
    (copy / "chat_template.jinja").write_text(template)
    loaded = load(copy)
    with pytest.raises(
        RegrowError, match=r"the chat template of .* fails on prompt 1: .*; .*use --no-chat"
    ) as refusal:
        encode(loaded, ["a"])
    one_sentence(refusal.value)
    assert encode(loaded, ["a"], chat=False)[0].tolist() == [[40]]


def test_chat_templates_without_a_default_are_refused(copy: Path) -> None:
    (copy / "chat_template.jinja").unlink()
    edit_json(copy / "tokenizer_config.json", chat_template=[{"name": "rag", "template": "x"}])
    with pytest.raises(RegrowError, match="multiple chat templates with no default"):
        encode(load(copy), ["a"])


def test_a_chat_template_that_writes_nothing_is_told_from_an_empty_prompt(copy: Path) -> None:
    (copy / "chat_template.jinja").write_text("{# #}")
    with pytest.raises(UsageError, match=r"prompt 1 encodes to no tokens, .*--no-chat"):
        encode(load(copy), ["a"])


def test_a_token_that_the_model_lacks_is_refused(copy: Path) -> None:
    loaded = load(copy)
    loaded.tokenizer.add_tokens([f"<extra {i}>" for i in range(40)])
    assert encode(loaded, ["a<extra 0>"], chat=False)[0].max() < loaded.embeddings
    with pytest.raises(
        RegrowError,
        match=r"prompt 2 holds the token '<extra 39>' \(105\), and .* has embeddings for 96 tokens",
    ):
        encode(loaded, ["a", "b<extra 39>"], chat=False)


@pytest.mark.parametrize("name", ["<pad>", None])
def test_a_pad_token_beyond_the_embeddings_changes_nothing(copy: Path, name: str | None) -> None:
    loaded = load(copy)
    expected = regrow.generate(loaded.model, *encode(loaded, ["ab", "abcd"]), max_new_tokens=3).tokens
    loaded.tokenizer.add_tokens([f"<extra {i}>" for i in range(40)])
    loaded.tokenizer.add_special_tokens({"pad_token": name or "<pad>"})
    if name is None:
        loaded.tokenizer.eos_token, loaded.tokenizer.pad_token = "<pad>", None
    ids, mask = encode(loaded, ["ab", "abcd"])
    assert ids.max() < loaded.embeddings
    assert torch.equal(ids == 0, mask == 0)
    assert regrow.generate(loaded.model, ids, mask, max_new_tokens=3).tokens == expected
