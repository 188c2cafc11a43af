"""Prompts as text, with a tokenizer, give what the same prompts give as token ids."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

import regrow
from regrow.bundled.problems import heldout
from regrow.models import Loaded, encode, load

METHOD = regrow.BatchwiseAdaptive(sparsity=0.5, init_steps=4)


@pytest.fixture(scope="module")
def bundled() -> Loaded:
    return load(dtype="float32")


@pytest.fixture(scope="module")
def prompts() -> list[str]:
    return [exercise.prompt for exercise in heldout(3)]


def test_texts_give_the_answers_of_their_token_ids(bundled: Loaded, prompts: list[str]) -> None:
    ids, mask = encode(bundled, prompts)
    want = regrow.generate(bundled.model, ids, mask, method=METHOD, max_new_tokens=24)
    got = regrow.generate(bundled.model, bundled.tokenizer, prompts, method=METHOD, max_new_tokens=24)
    assert got.tokens == want.tokens
    assert want.texts is None
    assert got.texts == [bundled.tokenizer.decode(row, skip_special_tokens=True) for row in want.tokens]


def test_an_answer_has_no_special_tokens(bundled: Loaded) -> None:
    done = regrow.generate(bundled.model, bundled.tokenizer, "A rev hello", max_new_tokens=80)
    assert done.report.finish_reasons == ["eos"]
    assert done.texts is not None
    assert done.texts[0].endswith("=olleh")


def test_an_engine_takes_texts(bundled: Loaded, prompts: list[str]) -> None:
    want = regrow.generate(bundled.model, bundled.tokenizer, prompts, method=METHOD, max_new_tokens=24)
    with regrow.Engine(bundled.model, METHOD) as engine:
        for _ in range(2):
            assert engine.generate(bundled.tokenizer, prompts, max_new_tokens=24).texts == want.texts


def test_one_text_is_a_batch_of_one(bundled: Loaded, prompts: list[str]) -> None:
    one, many = (
        regrow.generate(bundled.model, bundled.tokenizer, given, max_new_tokens=8).texts
        for given in (prompts[0], prompts[:1])
    )
    assert one == many
    assert one is not None
    assert len(one) == 1


def test_stop_strings_need_no_second_tokenizer(bundled: Loaded, prompts: list[str]) -> None:
    whole = regrow.generate(bundled.model, bundled.tokenizer, prompts[:1], max_new_tokens=40).texts
    assert whole is not None
    stop = whole[0][10:12]
    done = regrow.generate(
        bundled.model, bundled.tokenizer, prompts[:1], max_new_tokens=40, stop_strings=[stop]
    )
    assert done.texts == [whole[0][: whole[0].index(stop) + len(stop)]]
    assert done.report.finish_reasons == ["stop"]


def test_chat_says_whether_the_template_is_used(
    bundled: Loaded, prompts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def width(chat: bool | None) -> int:
        done = regrow.generate(bundled.model, bundled.tokenizer, prompts, chat=chat, max_new_tokens=4)
        return done.sequences.shape[1]

    twice = "{{ messages[0]['content'] }}{{ messages[0]['content'] }}"
    monkeypatch.setattr(bundled.tokenizer, "chat_template", twice)
    assert width(None) == width(True) > width(False)
    monkeypatch.setattr(bundled.tokenizer, "chat_template", None)
    assert width(None) == width(False)
    with pytest.raises(regrow.UsageError, match="no chat template"):
        width(True)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ((["a text"],), "tokenizer before them"),
        (("a text",), "tokenizer before them"),
        (([[1, 2]], None, True), "chat is for prompts as text"),
    ],
)
def test_texts_without_a_tokenizer_are_refused(bundled: Loaded, given: tuple[Any, ...], says: str) -> None:
    generate: Any = regrow.generate
    ids, *rest = given
    with pytest.raises(regrow.UsageError, match=says):
        generate(bundled.model, ids, max_new_tokens=4, chat=rest[1] if rest else None)


@pytest.mark.parametrize("prompts", [None, [1, 2], [["a"]], 7, [""], []])
def test_with_a_tokenizer_only_texts_are_taken(bundled: Loaded, prompts: Any) -> None:
    with pytest.raises(regrow.UsageError, match=r"list of texts|is empty|no prompts"):
        regrow.generate(bundled.model, bundled.tokenizer, prompts, max_new_tokens=4)


@pytest.mark.parametrize("name", ["sparsity", "init_steps", "pattern"])
def test_a_parameter_of_the_method_is_not_taken_for_one_of_the_generation(
    bundled: Loaded, prompts: list[str], name: str
) -> None:
    with pytest.raises(
        regrow.UsageError, match=rf"{name} is a parameter of the method.*regrow\.\w+\({name}="
    ):
        regrow.generate(bundled.model, bundled.tokenizer, prompts, method="bap", **{name: 0.3})


def test_no_generation_argument_is_taken_for_a_parameter_of_a_method(bundled: Loaded) -> None:
    methods: Any = regrow.METHODS.values()
    names = {field.name for method in methods for field in fields(method)}
    assert not names & vars(bundled.model.generation_config).keys()
