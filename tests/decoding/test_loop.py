"""The decode loop: where rows end and why, what callbacks receive, and the tokens of stock transformers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)

import regrow
from batches import PAD, arguments, ends, new_tokens, prompts
from families import build
from regrow.errors import UsageError
from regrow.method.base import Method

BATCH = prompts(4)
METHOD = regrow.BatchwiseAdaptive(sparsity=0.5, init_steps=3, explore_steps=1, period=4)


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return build("qwen2")


class StopAfter(StoppingCriteria):
    """Stops each row of a batch after its own number of tokens."""

    def __init__(self, length: int, counts: list[int]) -> None:
        self.length, self.counts = length, torch.tensor(counts)

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        return input_ids.shape[1] - self.length >= self.counts


class Tape:
    """A streamer that records what it receives."""

    def __init__(self) -> None:
        self.told: list[list[Any]] = []
        self.ended = 0

    def put(self, value: Tensor) -> None:
        self.told.append(value.tolist())

    def end(self) -> None:
        self.ended += 1


def dense(
    model: PreTrainedModel, watch: Callable[[regrow.Progress], None] | None = None, **settings: Any
) -> tuple[Tensor, regrow.Report]:
    with regrow.prune(model, regrow.Dense()) as session:
        return model.generate(watch=watch, **settings), session.report()


# Ends


@pytest.mark.parametrize("pad", ["a pad of its own", "pad is an EOS"])
def test_rows_end_with_their_eos_as_in_stock_transformers(model: PreTrainedModel, pad: str) -> None:
    eos = ends(model, BATCH)
    settings = arguments(BATCH, eos_token_id=eos, pad_token_id=PAD if pad == "a pad of its own" else eos[0])
    stock = model.generate(**settings)
    ours, report = dense(model, **settings)
    assert torch.equal(ours, stock)
    rows = new_tokens(BATCH, stock)
    counts = [next((i + 1 for i, token in enumerate(row) if token in eos), len(row)) for row in rows]
    assert len(set(counts)) >= 3  # they end at different steps
    assert report.tokens == counts
    assert report.finish_reasons == [
        "eos" if row[count - 1] in eos else "length" for row, count in zip(rows, counts, strict=True)
    ]
    assert report.decode_steps == max(counts) - 1


def test_decoding_ends_with_the_last_row(model: PreTrainedModel) -> None:
    eos = sorted(
        {token for row in new_tokens(BATCH, model.generate(**arguments(BATCH))) for token in row[4:6]}
    )
    ours, report = dense(model, **arguments(BATCH, eos_token_id=eos))
    assert torch.equal(ours, model.generate(**arguments(BATCH, eos_token_id=eos)))
    assert report.finish_reasons == ["eos"] * 4
    assert ours.shape[1] - max(map(len, BATCH)) == max(report.tokens) < 20


def test_an_eos_in_a_prompt_ends_nothing(model: PreTrainedModel) -> None:
    eos = ends(model, BATCH)
    batch = [[eos[0], *BATCH[0], eos[-1]], *BATCH[1:]]
    settings = arguments(batch, eos_token_id=eos)
    ours, report = dense(model, **settings)
    assert torch.equal(ours, model.generate(**settings))
    assert min(report.tokens) > 0
    assert report.decode_steps > 0


def test_one_token_is_no_decode_step(model: PreTrainedModel) -> None:
    settings = arguments(BATCH, max_new_tokens=1)
    ours, report = dense(model, **settings)
    assert torch.equal(ours, model.generate(**settings))
    assert (report.decode_steps, report.tokens, report.finish_reasons) == (0, [1] * 4, ["length"] * 4)


def test_custom_stopping_criteria_end_rows_for_the_reason_stop(model: PreTrainedModel) -> None:
    """Stock transformers pads stopped rows too, if there is an EOS."""
    counts = [5, 2, 99, 11]
    settings = arguments(BATCH) | {
        "stopping_criteria": StoppingCriteriaList([StopAfter(max(map(len, BATCH)), counts)])
    }
    ours, report = dense(model, **settings)
    assert torch.equal(ours, model.generate(**settings))
    assert report.tokens == [5, 2, 20, 11]
    assert report.finish_reasons == ["stop", "stop", "length", "stop"]
    assert ours[1, -18:].tolist() == [PAD] * 18


def test_a_stopped_row_without_any_eos_goes_on_as_in_stock_transformers(model: PreTrainedModel) -> None:
    """Only the tokens up to the row's end count."""
    settings = arguments(BATCH, eos_token_id=None) | {
        "stopping_criteria": [StopAfter(max(map(len, BATCH)), [5, 2, 8, 11])]
    }
    model.generation_config.eos_token_id, before = None, model.generation_config.eos_token_id
    try:
        stock = new_tokens(BATCH, model.generate(**settings))
        ours, report = dense(model, **settings)
    finally:
        model.generation_config.eos_token_id = before
    assert report.tokens == [5, 2, 8, 11]
    assert report.finish_reasons == ["stop"] * 4
    assert new_tokens(BATCH, ours) == stock
    assert PAD not in stock[1]  # real tokens, not padding


def test_an_eos_counts_before_a_criterion_of_the_same_step(model: PreTrainedModel) -> None:
    rows = new_tokens(BATCH, model.generate(**arguments(BATCH)))
    eos = rows[0][0]
    stop = StoppingCriteriaList([StopAfter(max(map(len, BATCH)), [1, 1, 1, 1])])
    _, report = dense(model, **arguments(BATCH, eos_token_id=eos), stopping_criteria=stop)
    assert report.finish_reasons == ["eos" if row[0] == eos else "stop" for row in rows]


def test_rows_that_ended_do_not_count_in_later_phases(model: PreTrainedModel) -> None:
    """A row whose first token is its EOS is scored by its prompt alone.

    The pad tokens that it is fed afterwards change no mask.
    """
    eos = new_tokens(BATCH, model.generate(**arguments(BATCH)))[0][0]
    runs = []
    with regrow.prune(model, METHOD, record_masks=True) as session:
        for pad in (PAD, 17, eos):
            tokens = new_tokens(BATCH, model.generate(**arguments(BATCH, eos_token_id=eos, pad_token_id=pad)))
            runs.append((tokens[1:], [(step, index.tolist()) for step, index in session.masks]))
            assert session.report().tokens[0] == 1
    others = [[token for token in row if token not in (PAD, 17, eos)] for row in runs[0][0]]
    assert runs[0][1] == runs[1][1] == runs[2][1]
    assert len(runs[0][1]) >= 4
    assert all(others)


def test_finished_rows_are_forgotten_only_if_asked(model: PreTrainedModel) -> None:
    """If forgotten, a row that ends with its first token has no effect on the masks selected afterwards."""
    eos = new_tokens(BATCH, model.generate(**arguments(BATCH)))[0][0]
    masks = {}
    for forget in (True, False):
        method = regrow.BatchwiseAdaptive(
            sparsity=0.5, init_steps=3, explore_steps=1, period=4, forget_finished=forget
        )
        for name, batch in (("all", BATCH), ("without it", BATCH[1:])):
            with regrow.prune(model, method, record_masks=True) as session:
                model.generate(**arguments(batch, eos_token_id=eos))
                masks[forget, name] = session.masks[0][1].tolist()
    assert masks[True, "all"] == masks[True, "without it"] == masks[False, "without it"]
    assert masks[False, "all"] != masks[True, "all"]


# What callers may ask for


SETTINGS: dict[str, dict[str, Any]] = {
    "sampling": {"do_sample": True, "temperature": 1.3},
    "top-p": {"do_sample": True, "top_p": 0.8, "top_k": 0},
    "processors": {"repetition_penalty": 1.4, "no_repeat_ngram_size": 2, "min_new_tokens": 6},
    "several a prompt": {"do_sample": True, "num_return_sequences": 3},
    "static cache": {"cache_implementation": "static"},
    "chunks of one": {"prefill_chunk_size": 1},
    "chunks of three": {"prefill_chunk_size": 3},
    "chunks longer than the prompt": {"prefill_chunk_size": 50},
    "static cache in chunks": {"cache_implementation": "static", "prefill_chunk_size": 4},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_dense_tokens_are_those_of_stock_transformers(model: PreTrainedModel, name: str) -> None:
    settings = arguments(BATCH, eos_token_id=ends(model, BATCH), **{"max_new_tokens": 24} | SETTINGS[name])
    torch.manual_seed(7)
    stock = model.generate(**settings)
    torch.manual_seed(7)
    ours, _ = dense(model, **settings)
    assert torch.equal(ours, stock)


def test_a_batch_without_padding_needs_no_mask(model: PreTrainedModel) -> None:
    ids = torch.tensor([[5, 9, 31], [7, 44, 12]])
    settings = arguments(BATCH) | {"input_ids": ids, "attention_mask": None}
    assert torch.equal(dense(model, **settings)[0], model.generate(**settings))


def test_scores_and_logits_are_returned_as_stock_transformers_does(model: PreTrainedModel) -> None:
    settings = arguments(
        BATCH, eos_token_id=ends(model, BATCH), repetition_penalty=1.3, return_dict_in_generate=True
    )
    stock = model.generate(**settings, output_scores=True, output_logits=True)
    with regrow.prune(model, regrow.Dense()):
        ours = model.generate(**settings, output_scores=True, output_logits=True)
        bare = model.generate(**settings)
    assert type(ours) is type(stock)
    assert torch.equal(ours.sequences, stock.sequences)
    assert len(ours.scores) == len(stock.scores) == ours.sequences.shape[1] - max(map(len, BATCH))
    for mine, theirs in zip((*ours.scores, *ours.logits), (*stock.scores, *stock.logits), strict=True):
        # Logits are about ten in size, and float32 sums are in different orders.
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    assert not torch.equal(ours.scores[3], ours.logits[3])
    assert ours.past_key_values.get_seq_length() == ours.sequences.shape[1] - 1
    assert bare.scores is None
    assert bare.logits is None


def test_a_streamer_is_told_what_stock_transformers_tells(model: PreTrainedModel) -> None:
    batch = BATCH[:1]
    settings = arguments(batch, eos_token_id=new_tokens(batch, model.generate(**arguments(batch)))[0][9])
    stock, ours = Tape(), Tape()
    model.generate(**settings, streamer=stock)
    with regrow.prune(model, METHOD.__class__(sparsity=0)):
        model.generate(**settings, streamer=ours)
    assert ours.told == stock.told
    assert len(ours.told) > 5
    assert ours.ended == stock.ended == 1


@pytest.mark.parametrize("chunk", [1, 3, 50])
def test_chunks_of_the_prompt_change_no_mask_and_no_token(chunk: int) -> None:
    model = build("qwen2", torch.float64)
    runs = []
    with regrow.prune(model, METHOD, record_masks=True) as session:
        for size in (None, chunk):
            tokens = new_tokens(BATCH, model.generate(**arguments(BATCH, prefill_chunk_size=size)))
            runs.append((tokens, [(step, index.tolist()) for step, index in session.masks]))
    assert runs[0] == runs[1]


def test_the_scores_of_a_prompt_in_chunks_of_one_token_are_those_of_the_whole_in_bfloat16() -> None:
    """They agree up to rounding. In bfloat16, a CPU kernel adds the scores, and it reads contiguous slots."""
    model, scores = build("qwen2", torch.bfloat16), []
    for size in (None, 1):
        with regrow.prune(model, regrow.Griffin(sparsity=0.5)) as session:
            model.generate(**arguments(BATCH, prefill_chunk_size=size, max_new_tokens=2))
            scores.append(session.pruner.state.memory.clone())  # type: ignore[attr-defined]
    assert scores[0].amax() > 0
    torch.testing.assert_close(*scores, rtol=0.05, atol=0.01)


class Asks(LogitsProcessor):
    """A processor that runs the model itself, as classifier-free guidance does, and changes nothing."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.model(input_ids, use_cache=False)
        return scores


@pytest.mark.parametrize("method", [regrow.Dense(), METHOD], ids=lambda method: method.name)
def test_a_processor_that_runs_the_model_leaves_masks_tokens_and_counters_alone(
    model: PreTrainedModel, method: Method
) -> None:
    runs = []
    for processors in ([], [Asks(model)]):
        with regrow.prune(model, method, record_masks=True) as session:
            tokens = new_tokens(
                BATCH, model.generate(**arguments(BATCH, logits_processor=LogitsProcessorList(processors)))
            )
            report = session.report()
            runs.append(
                (
                    tokens,
                    [(step, index.tolist()) for step, index in session.masks],
                    report.weights_kept,
                    report.decode_steps,
                )
            )
    assert runs[0] == runs[1]


@pytest.mark.parametrize("chunk", [0, -1])
def test_a_chunk_of_no_tokens_is_refused(model: PreTrainedModel, chunk: int) -> None:
    with pytest.raises(UsageError, match="prefill_chunk_size"):
        dense(model, **arguments(BATCH, prefill_chunk_size=chunk))
