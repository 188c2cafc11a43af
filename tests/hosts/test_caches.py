"""A caller's cache ends up with the content that stock transformers writes, and serves a second turn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, StaticCache

import regrow
from batches import PAD, arguments, ends, prompts
from families import VOCABULARY, build
from naive import left_pad
from regrow.errors import UsageError

BATCH = prompts(3)
WIDTH = max(map(len, BATCH))
FIRST, SECOND = 6, 3  # new tokens of the first turn, tokens of the second prompt
PRUNED = regrow.BatchwiseAdaptive(sparsity=0.5, init_steps=3, explore_steps=1, period=4)

CACHES: dict[str, Callable[[PreTrainedModel], Any]] = {
    "grows": lambda _: DynamicCache(),
    "grows, with windows": lambda model: DynamicCache(config=model.config),
    "of fixed size": lambda model: StaticCache(config=model.config, max_cache_len=80),
}


def contents(cache: Any) -> list[Tensor]:
    return [tensor.clone() for layer in cache.layers for tensor in (layer.keys, layer.values)]


def same(ours: Any, theirs: Any) -> bool:
    pairs = list(zip(contents(ours), contents(theirs), strict=True))
    return int(ours.get_seq_length()) == int(theirs.get_seq_length()) and all(
        torch.allclose(a, b, atol=1e-5) for a, b in pairs
    )


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize("kind", CACHES)
@pytest.mark.parametrize(
    "settings", [{}, {"prefill_chunk_size": 2}, {"max_new_tokens": 1}, {"eos_token_id": "ends"}], ids=str
)
def test_an_empty_cache_is_filled_as_stock_transformers_fills_it(
    family: str, kind: str, settings: dict[str, Any]
) -> None:
    model = build(family)
    given = arguments(
        BATCH, **settings | ({"eos_token_id": ends(model, BATCH)} if "eos_token_id" in settings else {})
    )
    theirs, ours = CACHES[kind](model), CACHES[kind](model)
    stock = model.generate(**given, past_key_values=theirs)
    with regrow.prune(model, regrow.Dense()):
        assert torch.equal(model.generate(**given, past_key_values=ours), stock)
    assert ours.get_seq_length() > 0
    assert same(ours, theirs)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize("kind", CACHES)
def test_a_cache_of_a_pruned_run_holds_what_that_run_computed(family: str, kind: str) -> None:
    """Until the first sparse step, the content is that of stock transformers.

    After it, the content is what the pruned run computed, which differs from the dense model's.
    """
    model = build(family)
    theirs, ours = CACHES[kind](model), CACHES[kind](model)
    model.generate(**arguments(BATCH), past_key_values=theirs)
    with regrow.prune(model, PRUNED):
        plain = model.generate(**arguments(BATCH))
        assert torch.equal(model.generate(**arguments(BATCH), past_key_values=ours), plain)
    assert int(ours.get_seq_length()) == int(theirs.get_seq_length()) == WIDTH + 19
    dense = WIDTH + 3
    if family == "llama":
        kept, stock = (torch.stack([t[:, :, :dense] for t in contents(cache)]) for cache in (ours, theirs))
        assert torch.allclose(kept, stock, atol=1e-5)
    assert not same(ours, theirs)


def whole(first: Tensor, mask: Tensor, more: Tensor) -> dict[str, Tensor]:
    """The conversation so far, and the new prompt."""
    ids = torch.cat([first, more], dim=1)
    return {
        "input_ids": ids,
        "attention_mask": torch.cat([mask, mask.new_ones(len(ids), ids.shape[1] - mask.shape[1])], dim=1),
    }


def only_new(first: Tensor, mask: Tensor, more: Tensor) -> dict[str, Tensor]:
    """Only the tokens that the cache does not hold, with a mask for all tokens."""
    given = whole(first, mask, more)
    return given | {"input_ids": given["input_ids"][:, -1 - SECOND :]}


def conversation(model: PreTrainedModel, cache: Any, turn: Callable[..., dict[str, Tensor]]) -> Tensor:
    ids, mask = left_pad(BATCH, PAD)
    settings = {"do_sample": False, "eos_token_id": VOCABULARY, "pad_token_id": PAD}
    first = model.generate(
        input_ids=ids, attention_mask=mask, past_key_values=cache, max_new_tokens=FIRST, **settings
    )
    more = torch.tensor([[8, 11, 70]] * len(BATCH))
    return model.generate(**turn(first, mask, more), past_key_values=cache, max_new_tokens=8, **settings)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2", "phi3"])
@pytest.mark.parametrize("kind", CACHES)
@pytest.mark.parametrize("turn", [whole, only_new])
def test_a_second_turn_goes_on_from_the_cache_as_in_stock_transformers(
    family: str, kind: str, turn: Callable[..., Any]
) -> None:
    model = build(family)
    theirs, ours = CACHES[kind](model), CACHES[kind](model)
    stock = conversation(model, theirs, turn)
    for method in (regrow.Dense(), regrow.Griffin(sparsity=0)):
        ours = CACHES[kind](model)
        with regrow.prune(model, method) as session:
            assert torch.equal(conversation(model, ours, turn), stock)
            assert session.report().tokens == [8] * len(BATCH)
        assert same(ours, theirs)


def test_a_returned_cache_serves_a_turn_of_stock_transformers() -> None:
    model, (ids, mask) = build("llama"), left_pad(BATCH, PAD)
    settings = {
        "do_sample": False,
        "eos_token_id": VOCABULARY,
        "pad_token_id": PAD,
        "return_dict_in_generate": True,
    }
    stock = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=FIRST, **settings)
    with regrow.prune(model, regrow.Dense()):
        ours = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=FIRST, **settings)
    assert same(ours.past_key_values, stock.past_key_values)
    turns = []
    for first in (stock, ours):
        given = whole(first.sequences, mask, torch.tensor([[8, 11, 70]] * len(BATCH)))
        turns.append(
            model.generate(
                **given, past_key_values=first.past_key_values, max_new_tokens=8, **settings
            ).sequences
        )
    assert torch.equal(*turns)


def test_a_cropped_cache_goes_on_from_where_it_was_cropped() -> None:
    model, ids = build("qwen2"), torch.tensor([[5, 9, 31, 7, 44]])
    answers = []
    for method in (None, regrow.Dense()):
        cache = DynamicCache()
        context = regrow.prune(model, method) if method else torch.no_grad()
        with context:
            first = model.generate(ids, max_new_tokens=FIRST, past_key_values=cache, do_sample=False)
            cache.crop(4)
            more = torch.cat([first[:, :7], torch.tensor([[8, 11]])], dim=1)
            answers.append(model.generate(more, max_new_tokens=8, past_key_values=cache, do_sample=False))
    assert torch.equal(*answers)


@pytest.mark.parametrize(
    "method", [PRUNED, regrow.Griffin(), regrow.EveryToken(), regrow.WINA(selection="topk")]
)
@pytest.mark.parametrize("turn", [whole, only_new])
def test_a_method_that_prunes_by_what_it_saw_refuses_a_cache_with_content(
    method: Any, turn: Callable[..., Any]
) -> None:
    model = build("llama")
    with (
        regrow.prune(model, method),
        pytest.raises(UsageError, match="already holds tokens whose activations were not seen"),
    ):
        conversation(model, DynamicCache(), turn)
