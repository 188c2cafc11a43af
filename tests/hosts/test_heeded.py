"""Arguments of `generate` have the same effect as in stock transformers, or raise UsageError."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    EosTokenCriteria,
    GenerationConfig,
    LogitsProcessor,
    MaxLengthCriteria,
    PreTrainedModel,
    StoppingCriteria,
    StopStringCriteria,
)

import regrow
from batches import arguments, character_tokenizer, ends, new_tokens, prompts
from families import VOCABULARY, build
from regrow.errors import UsageError

BATCH = prompts(4)
LENGTH = max(map(len, BATCH))
PRUNED = regrow.BatchwiseAdaptive(sparsity=0.5, init_steps=3, explore_steps=1, period=4)


TOKENIZER = character_tokenizer()


@pytest.fixture
def model() -> PreTrainedModel:
    return build("llama")


def both(model: PreTrainedModel, ask: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
    """Return the results of stock transformers and of a dense context."""
    torch.manual_seed(3)
    stock = ask()
    torch.manual_seed(3)
    with regrow.prune(model, regrow.Dense()):
        return stock, ask()


# Stop strings and the tokenizer


def stops(model: PreTrainedModel) -> list[str]:
    """Return stop strings of one character that end rows at different steps."""
    return [TOKENIZER.decode([token]) for token in ends(model, BATCH)]


def in_the_call(model: PreTrainedModel, strings: list[str]) -> Tensor:
    return model.generate(**arguments(BATCH), stop_strings=strings, tokenizer=TOKENIZER)


def as_one_string(model: PreTrainedModel, strings: list[str]) -> Tensor:
    return model.generate(**arguments(BATCH), stop_strings=strings[0], tokenizer=TOKENIZER)


def in_the_models_config(model: PreTrainedModel, strings: list[str]) -> Tensor:
    model.generation_config.stop_strings = strings
    try:
        return model.generate(**arguments(BATCH), tokenizer=TOKENIZER)
    finally:
        model.generation_config.stop_strings = None


def in_a_config(model: PreTrainedModel, strings: list[str]) -> Tensor:
    given = arguments(BATCH)
    kept = {name: given.pop(name) for name in ("input_ids", "attention_mask")}
    return model.generate(
        **kept, generation_config=GenerationConfig(**given, stop_strings=strings), tokenizer=TOKENIZER
    )


def beside_a_criterion_of_the_same_class(model: PreTrainedModel, strings: list[str]) -> Tensor:
    """The caller's criterion replaces the one that transformers creates."""
    own = [StopStringCriteria(TOKENIZER, strings[1:])]
    return model.generate(
        **arguments(BATCH), stop_strings=strings[:1], tokenizer=TOKENIZER, stopping_criteria=own
    )


@pytest.mark.parametrize(
    "way",
    [in_the_call, as_one_string, in_the_models_config, in_a_config, beside_a_criterion_of_the_same_class],
)
def test_stop_strings_end_rows_as_in_stock_transformers(
    model: PreTrainedModel, way: Callable[..., Tensor]
) -> None:
    strings = stops(model)
    stock, ours = both(model, lambda: way(model, strings))
    assert torch.equal(ours, stock)
    assert not torch.equal(stock, model.generate(**arguments(BATCH)))  # the stop strings end some rows


def test_stop_strings_end_the_rows_of_a_pruned_model(model: PreTrainedModel) -> None:
    with regrow.prune(model, PRUNED) as session:
        plain = new_tokens(BATCH, model.generate(**arguments(BATCH)))
        stop = next(token for token in plain[0][5:] if token not in plain[0][:5])
        model.generate(**arguments(BATCH), stop_strings=TOKENIZER.decode([stop]), tokenizer=TOKENIZER)
        report = session.report()
    assert report.finish_reasons[0] == "stop"
    assert report.tokens == [row.index(stop) + 1 if stop in row else len(row) for row in plain]


def test_healed_prompts_are_those_of_stock_transformers(model: PreTrainedModel) -> None:
    stock, ours = both(
        model, lambda: model.generate(**arguments(BATCH), token_healing=True, tokenizer=TOKENIZER)
    )
    assert torch.equal(ours, stock)


def test_a_tokenizer_leaves_no_trace(model: PreTrainedModel) -> None:
    before = dict(vars(model))
    with regrow.prune(model, PRUNED):
        model.generate(**arguments(BATCH), stop_strings="~", tokenizer=TOKENIZER)
    assert vars(model) == before


# Criteria and processors


def test_an_eos_criterion_of_a_single_number_ends_rows(model: PreTrainedModel) -> None:
    criterion = EosTokenCriteria(torch.tensor(ends(model, BATCH)[0]))
    stock, ours = both(model, lambda: model.generate(**arguments(BATCH), stopping_criteria=[criterion]))
    assert torch.equal(ours, stock)
    assert 0 in stock[:, LENGTH:]  # padding after it


class Longer(MaxLengthCriteria):
    """A subclass, which transformers keeps beside the limit of the call."""


@pytest.mark.parametrize(
    "criteria", [[MaxLengthCriteria(LENGTH + 4)], [MaxLengthCriteria(LENGTH + 30)], [Longer(LENGTH + 4)]]
)
def test_limits_are_those_of_the_criteria(model: PreTrainedModel, criteria: list[Any]) -> None:
    stock, ours = both(model, lambda: model.generate(**arguments(BATCH), stopping_criteria=criteria))
    assert torch.equal(ours, stock)


class Writes(LogitsProcessor):
    """Writes to the first column of the ids that it receives."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        input_ids[:, 0] = 7
        return scores


class Replaces(StoppingCriteria):
    """Replaces every third token; the next step must be fed the new token."""

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        if input_ids.shape[1] % 3 == 0:
            input_ids[:, -1] = 11
        return torch.zeros(len(input_ids), dtype=torch.bool)


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("name", ["logits_processor", "stopping_criteria"])
def test_what_a_callers_function_writes_to_the_ids_counts(
    model: PreTrainedModel, name: str, rows: int
) -> None:
    given = {name: [Writes() if name == "logits_processor" else Replaces()]}
    stock, ours = both(model, lambda: model.generate(**arguments(BATCH[:rows]), **given))
    assert torch.equal(ours, stock)
    assert not torch.equal(ours, model.generate(**arguments(BATCH[:rows])))


@pytest.mark.parametrize("rows", [1, 4])
def test_ids_that_a_callers_function_keeps_stay_as_they_were(model: PreTrainedModel, rows: int) -> None:
    kept: list[Tensor] = []

    def keep(input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        kept.append(input_ids)
        if len(kept) > 3:
            kept[1][:] = 0  # each step hands out a tensor of its own
        return torch.zeros(len(input_ids), dtype=torch.bool)

    stock, ours = both(model, lambda: model.generate(**arguments(BATCH[:rows]), stopping_criteria=[keep]))
    assert torch.equal(ours, stock)
    assert all(ids.is_contiguous() for ids in kept)


# Pads and masks


@pytest.mark.parametrize("pad", [VOCABULARY, 5000, -1])
def test_a_pad_that_the_model_does_not_have_pads_rows_that_ended(model: PreTrainedModel, pad: int) -> None:
    """Stock transformers fails, because it feeds the pad to the embedding."""
    eos = ends(model, BATCH)
    stock = model.generate(**arguments(BATCH, eos_token_id=eos))
    with regrow.prune(model, regrow.Dense()):
        ours = model.generate(**arguments(BATCH, eos_token_id=eos, pad_token_id=pad))
    assert torch.equal(torch.where(ours == pad, 0, ours), stock)
    assert pad in ours


@pytest.mark.parametrize("pad", [VOCABULARY, 5000, -1])
def test_masked_columns_may_hold_what_the_model_does_not_have(model: PreTrainedModel, pad: int) -> None:
    given = arguments(BATCH)
    ids = torch.where(given["attention_mask"].bool(), given["input_ids"], pad)
    with regrow.prune(model, PRUNED):
        want = model.generate(**given)
        assert torch.equal(new_ids(model.generate(**given | {"input_ids": ids})), new_ids(want))
    report = regrow.generate(model, ids, given["attention_mask"], max_new_tokens=4)
    assert len(report.tokens) == 4


def new_ids(sequences: Tensor) -> Tensor:
    return sequences[:, LENGTH:]


@pytest.mark.parametrize("token", [VOCABULARY, -1])
def test_a_token_that_the_model_does_not_have_is_refused(model: PreTrainedModel, token: int) -> None:
    given = arguments(BATCH)
    given["input_ids"][0, -1] = token
    with (
        regrow.prune(model, PRUNED),
        pytest.raises(UsageError, match=f"token id {token} is not one of the model's 0 to 95"),
    ):
        model.generate(**given)


@pytest.mark.parametrize("columns", [LENGTH + 3, LENGTH - 1])
@pytest.mark.parametrize("value", [1, 0])
def test_a_mask_of_another_length_is_refused(model: PreTrainedModel, columns: int, value: int) -> None:
    mask = torch.ones(len(BATCH), columns, dtype=torch.int64)
    mask[0, 0] = value
    with (
        regrow.prune(model, regrow.Dense()),
        pytest.raises(UsageError, match=f"attention_mask has {columns} columns and input_ids {LENGTH}"),
    ):
        model.generate(**arguments(BATCH) | {"attention_mask": mask})


def test_prompts_that_are_passed_twice_are_refused(model: PreTrainedModel) -> None:
    ids = arguments(BATCH)["input_ids"]
    with regrow.Engine(model, PRUNED) as engine:
        for generate in (model.generate, engine.generate):
            with pytest.raises(UsageError, match="inputs was passed twice"):
                generate(ids, inputs=ids.flip(1), max_new_tokens=2)


def test_stop_strings_through_an_engine(model: PreTrainedModel) -> None:
    given, strings = arguments(BATCH), stops(model)
    stock = in_the_call(model, strings)
    ids, mask = given.pop("input_ids"), given.pop("attention_mask")
    made = regrow.generate(model, ids, mask, **given, stop_strings=strings, tokenizer=TOKENIZER)
    assert torch.equal(made.sequences, stock)
    assert "stop" in made.report.finish_reasons
