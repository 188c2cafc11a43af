"""Tokenizers that are missing, are damaged, or need a package."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_files import edit_json, one_sentence
from regrow.errors import RegrowError, UsageError
from regrow.models import encode, load, tokenizer

FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


@pytest.mark.parametrize("gone", [FILES, FILES[:1], (FILES[0], FILES[2])])
def test_a_model_without_a_vocabulary_is_refused(copy: Path, gone: tuple[str, ...]) -> None:
    for name in gone:
        (copy / name).unlink()
    with pytest.raises(
        UsageError, match=r"has no tokenizer: .* holds no tokenizer\.json; copy the tokenizer's files"
    ):
        load(copy)


def test_a_tokenizer_needs_nothing_but_its_vocabulary(copy: Path) -> None:
    expected = load(copy).tokenizer("ab")["input_ids"]
    (copy / "tokenizer_config.json").unlink()
    assert load(copy).tokenizer("ab")["input_ids"] == expected


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff\xfe{\x00"])
@pytest.mark.parametrize("name", FILES[:2])
def test_a_damaged_file_is_named(copy: Path, name: str, data: bytes) -> None:
    (copy / name).write_bytes(data)
    with pytest.raises(RegrowError, match=f"/{name} is damaged") as refusal:
        load(copy)
    one_sentence(refusal.value)


@pytest.mark.parametrize("cut", [1, 200, 700, 1400])
def test_a_truncated_vocabulary_is_named(copy: Path, cut: int) -> None:
    path = copy / "tokenizer.json"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(RegrowError, match=r"/tokenizer\.json is damaged"):
        load(copy)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("tokenizer.json", {"model": None}),
        ("tokenizer.json", {"model": {"type": "nonsense"}}),
        ("tokenizer.json", {"added_tokens": 3}),
        ("tokenizer.json", {"version": 9, "pre_tokenizer": "x"}),
        ("tokenizer_config.json", {"tokenizer_class": 3}),
        ("tokenizer_config.json", {"pad_token": 3}),
        ("tokenizer_config.json", {"model_max_length": "x"}),
    ],
)
def test_a_wrong_value_is_one_sentence(copy: Path, name: str, settings: dict[str, object]) -> None:
    edit_json(copy / name, **settings)
    with pytest.raises(RegrowError, match=r"the tokenizer of .* cannot be loaded: ") as refusal:
        load(copy)
    one_sentence(refusal.value)


@pytest.mark.parametrize("name", ["tokenizer.model", "qwen.tiktoken", "spiece.model"])
def test_what_another_kind_of_tokenizer_needs_is_named(
    copy: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer, "find_spec", lambda _: None)
    for gone in FILES[:2]:
        (copy / gone).unlink()
    (copy / name).write_bytes(b"IQ== 0\n")
    with pytest.raises(
        RegrowError, match="other kinds may need `pip install sentencepiece tiktoken`"
    ) as refusal:
        load(copy)
    one_sentence(refusal.value)


def _as_r1(copy: Path, *, template: bool) -> None:
    """Gives the tokenizer the tokens of R1 models, and takes its chat template away unless asked not to."""
    found = load(copy).tokenizer
    found.add_special_tokens({"bos_token": "<s>"})
    found.add_tokens(["<｜User｜>", "<｜Assistant｜>"], special_tokens=True)
    if not template:
        found.chat_template = None
        (copy / "chat_template.jinja").unlink()
    found.save_pretrained(copy)


def test_an_r1_model_without_a_chat_template_gets_deepseeks(copy: Path) -> None:
    _as_r1(copy, template=False)
    found = load(copy).tokenizer
    message = [{"role": "system", "content": "S"}, {"role": "user", "content": "ab"}]
    text = found.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    assert text == "<s>S<｜User｜>ab<｜Assistant｜><think>\n"


def test_an_r1_model_keeps_a_chat_template_of_its_own(copy: Path) -> None:
    before = load(copy).tokenizer.chat_template
    _as_r1(copy, template=True)
    assert load(copy).tokenizer.chat_template == before


def test_a_system_message_and_one_bos(copy: Path) -> None:
    _as_r1(copy, template=False)
    loaded = load(copy)
    loaded.model.resize_token_embeddings(len(loaded.tokenizer))
    ids, _ = encode(loaded, ["ab"], system="add")
    text = loaded.tokenizer.decode(ids[0], skip_special_tokens=False)
    assert text.count("<s>") == 1
    assert text.startswith("<s>add<｜User｜>ab")
    with pytest.raises(UsageError, match="a system message needs a chat template"):
        encode(loaded, ["ab"], chat=False, system="add")
