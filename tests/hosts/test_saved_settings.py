"""Settings of a model's own generation config that the caller did not set."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import GenerationConfig, PreTrainedModel

import regrow
from batches import arguments, prompts
from families import build
from regrow.errors import UsageError

BATCH = prompts(3)
METHOD = regrow.BatchwiseAdaptive(sparsity=0.5, init_steps=3, explore_steps=1, period=4)


def saving(**settings: Any) -> PreTrainedModel:
    """Return a model whose generation config holds the settings."""
    model = build("llama")
    for name, value in settings.items():
        setattr(model.generation_config, name, value)
    return model


HARMLESS: list[dict[str, Any]] = [
    {"use_cache": False},
    {"output_hidden_states": True},
    {"output_attentions": True},
    {"output_scores": True},
    {"output_hidden_states": True, "use_cache": False, "output_logits": True},
    {"num_beams": 1, "num_return_sequences": 1},
]


@pytest.mark.parametrize("settings", HARMLESS, ids=str)
def test_a_setting_that_stocks_tokens_do_not_depend_on_is_left_out(settings: dict[str, Any]) -> None:
    model = saving(**settings)
    model.set_attn_implementation("eager")  # stock transformers returns attentions only with eager attention
    given = arguments(BATCH)
    stock = model.generate(**given)
    before = model.generation_config.to_dict()
    with regrow.prune(model, regrow.Dense()):
        assert torch.equal(model.generate(**given), stock)
        own = {key: given.pop(key) for key in ("max_new_tokens", "do_sample", "eos_token_id", "pad_token_id")}
        assert torch.equal(model.generate(**given, generation_config=GenerationConfig(**own)), stock)
        assert torch.equal(
            model.generate(
                given["input_ids"], GenerationConfig(**own), attention_mask=given["attention_mask"]
            ),
            stock,
        )
    assert torch.equal(regrow.generate(model, **given, **own).sequences, stock)
    assert model.generation_config.to_dict() == before


def test_a_dictionary_that_the_model_asks_for_is_returned() -> None:
    model = saving(return_dict_in_generate=True, output_scores=True)
    stock = model.generate(**arguments(BATCH))
    with regrow.prune(model, regrow.Dense()):
        ours = model.generate(**arguments(BATCH))
        assert torch.equal(ours.sequences, stock.sequences)
        assert len(ours.scores) == len(stock.scores)
        assert torch.equal(regrow.generate(model, **arguments(BATCH)).sequences, stock.sequences)


DECISIVE: list[tuple[dict[str, Any], str]] = [
    ({"num_beams": 2}, "num_beams=2"),
    ({"num_beams": 3, "use_cache": False}, "num_beams=3"),
    ({"num_return_sequences": 2}, "num_return_sequences=2"),
    ({"prompt_lookup_num_tokens": 3}, "prompt_lookup_num_tokens=3"),
    ({"penalty_alpha": 0.6, "top_k": 4}, "penalty_alpha=0.6"),
]


@pytest.mark.parametrize(("settings", "shown"), DECISIVE, ids=str)
def test_a_setting_that_decides_is_refused_and_its_origin_named(settings: dict[str, Any], shown: str) -> None:
    model, name = saving(**settings), shown.split("=")[0]
    want = build("llama").generate(**arguments(BATCH))
    with regrow.prune(model, regrow.Dense()):
        for ask in (model.generate, lambda **given: regrow.generate(model, **given)):
            with pytest.raises(UsageError, match="own generation config sets") as refusal:
                ask(**arguments(BATCH))
            assert shown in str(refusal.value)
            assert "\n" not in str(refusal.value)
        plain = {"prompt_lookup_num_tokens": None, "penalty_alpha": 0.0}.get(name, 1)
        assert f"set model.generation_config.{name} = {plain}" in str(refusal.value)
        setattr(model.generation_config, name, plain)  # follow the advice in the message
        assert torch.equal(model.generate(**arguments(BATCH)), want)


def test_hidden_states_that_would_be_a_part_of_the_answer_are_refused() -> None:
    model = saving(return_dict_in_generate=True, output_hidden_states=True)
    with (
        regrow.prune(model, METHOD),
        pytest.raises(UsageError, match="output_hidden_states are not supported"),
    ):
        model.generate(**arguments(BATCH))
    assert regrow.generate(model, **arguments(BATCH), method=METHOD).report.sparse_steps


def test_what_the_user_asks_for_is_refused_as_before() -> None:
    model = saving(use_cache=False)
    with regrow.prune(model, METHOD):
        with pytest.raises(UsageError, match="leave use_cache on"):
            model.generate(**arguments(BATCH, use_cache=False))
        with pytest.raises(UsageError, match="generation mode 'beam_search' is not supported"):
            model.generate(**arguments(BATCH, num_beams=2))


def test_several_sequences_sampled_as_the_model_asks() -> None:
    model, given = saving(num_return_sequences=2, do_sample=True), arguments(BATCH)
    del given["do_sample"]
    torch.manual_seed(1)
    stock = model.generate(**given)
    torch.manual_seed(1)
    assert torch.equal(regrow.generate(model, **given).sequences, stock)
    with pytest.raises(UsageError, match="own generation config sets num_return_sequences=2"):
        regrow.generate(model, **given, do_sample=False)


def test_a_setting_of_the_config_that_was_passed_is_the_users() -> None:
    model = saving(num_beams=2)
    given = arguments(BATCH)
    want = build("llama").generate(**given)
    own = {key: given.pop(key) for key in ("max_new_tokens", "do_sample", "eos_token_id", "pad_token_id")}
    config = GenerationConfig(**own, num_beams=1)
    assert torch.equal(regrow.generate(model, **given, generation_config=config).sequences, want)
    with pytest.raises(UsageError, match="generation mode 'beam_search'"):
        regrow.generate(model, **given, generation_config=GenerationConfig(**own, num_beams=3))
