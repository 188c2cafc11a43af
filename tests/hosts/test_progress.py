"""What the decode loop reports to callbacks, and that buffers keep their addresses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
from torch import Tensor
from transformers import PreTrainedModel

import regrow
from batches import arguments, ends, new_tokens, prompts
from families import VOCABULARY, build

BATCH = prompts(4)
METHOD = regrow.BatchwiseAdaptive(sparsity=0.5, init_steps=3, explore_steps=1, period=4)


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return build("qwen2")


def dense(
    model: PreTrainedModel, watch: Callable[[regrow.Progress], None] | None = None, **settings: Any
) -> tuple[Tensor, regrow.Report]:
    with regrow.prune(model, regrow.Dense()) as session:
        return model.generate(watch=watch, **settings), session.report()


def test_watch_sees_every_step_of_the_batch(model: PreTrainedModel) -> None:
    eos = ends(model, BATCH)
    seen: list[tuple[int, list[bool], list[list[int]]]] = []
    ids = arguments(BATCH)
    settings = {key: ids[key] for key in ("max_new_tokens", "do_sample", "pad_token_id")}
    made = regrow.generate(
        model,
        ids["input_ids"],
        ids["attention_mask"],
        method=METHOD,
        watch=lambda p: seen.append((p.step, list(p.finished), p.tokens.tolist())),
        eos_token_id=eos,
        **settings,
    )
    rows = new_tokens(BATCH, made.sequences)
    assert [step for step, _, _ in seen] == list(range(1, max(made.report.tokens) + 1))
    for step, finished, tokens in seen:
        assert tokens == [row[:step] for row in rows]
        reasons = zip(made.report.tokens, made.report.finish_reasons, strict=True)
        assert finished == [reason == "eos" and count <= step for count, reason in reasons]
    assert made.tokens == [row[:count] for row, count in zip(rows, made.report.tokens, strict=True)]


@pytest.mark.parametrize("memory", ["max", "none", "ema"])
@pytest.mark.parametrize("aggregate", ["max", "mean"])
def test_buffers_keep_their_addresses_while_decoding(
    model: PreTrainedModel, aggregate: str, memory: str
) -> None:
    method = regrow.BatchwiseAdaptive(
        sparsity=0.5, init_steps=2, explore_steps=1, period=3, aggregate=aggregate, memory=memory
    )
    seen = set()
    with regrow.prune(model, method) as session:

        def watch(progress: regrow.Progress) -> None:
            state = session.pruner.state
            assert state is not None
            buffers = [getattr(state, field.name) for field in fields(state)]
            buffers += [
                value
                for ffn in session.pruner._sparse
                for value in vars(ffn).values()
                if isinstance(value, Tensor)
            ]
            if progress.step > 4:  # a compact copy knows its rows only after the first load
                seen.add(tuple(buffer.data_ptr() for buffer in buffers))

        model.generate(watch=watch, **arguments(BATCH))
        assert session.report().updates >= 6
    assert len(seen) == 1


def test_times_are_told(model: PreTrainedModel) -> None:
    _, report = dense(model, **arguments(BATCH))
    assert report.prefill_seconds > 0
    assert report.decode_seconds > report.prefill_seconds / 100


def test_an_id_outside_the_vocabulary_is_no_eos(model: PreTrainedModel) -> None:
    assert dense(model, **arguments(BATCH, eos_token_id=VOCABULARY))[1].finish_reasons == ["length"] * 4
