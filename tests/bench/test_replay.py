"""Replayed masks: a batch retains the neurons that the given scores name, whatever it has observed."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

import regrow
from batches import arguments, prompts
from families import LAYERS, NEURONS, build
from regrow.bench.replay import replayed
from regrow.pruning.pruner import Pruner

METHOD = regrow.BatchwiseAdaptive(sparsity=0.5, init_steps=0, explore_steps=1, period=4)
KEEP = NEURONS // 2


def scores(turnover: float, selections: int = 20) -> list[Tensor]:
    return replayed(LAYERS, NEURONS, KEEP, turnover=turnover, selections=selections)


def pruner_of(session: Any) -> Pruner:
    assert session.pruner is not None
    pruner: Pruner = session.pruner
    return pruner


@pytest.mark.parametrize("turnover", [0.0, 0.25, 1.0])
def test_every_refresh_replaces_the_share_asked_for(turnover: float) -> None:
    model, batch = build("qwen2"), prompts(3)
    with regrow.prune(model, METHOD, record_masks=True) as session:
        own = regrow.generate(model, **arguments(batch)).report
        pruner_of(session).memory.dictate(scores(turnover))
        for _ in range(2):
            report = regrow.generate(model, **arguments(batch)).report
            masks = [set(index[0].tolist()) for _, index in session.masks]
            assert {len(a & b) for a, b in pairwise(masks)} == {round((1 - turnover) * KEEP)}
            assert report.turnover == pytest.approx([turnover] * LAYERS)
            assert (report.updates, report.weights_kept, report.decode_steps) == (
                own.updates,
                own.weights_kept,
                own.decode_steps,
            )


@pytest.mark.parametrize("method", [METHOD, regrow.Griffin(), regrow.Magnitude()], ids=str)
def test_the_nth_selection_of_every_batch_goes_by_the_nth_scores(method: Any) -> None:
    model, batch = build("qwen2"), prompts(3)
    drawn = scores(0.5)
    with regrow.prune(model, method, record_masks=True) as session:
        pruner_of(session).memory.dictate(drawn)
        for _ in range(2):
            regrow.generate(model, **arguments(batch))
            assert session.masks
            for (_, index), score in zip(session.masks, drawn, strict=False):
                assert torch.equal(torch.zeros_like(score).scatter_(1, index, 1.0), score)


def test_no_scores_give_the_memory_back() -> None:
    model, batch = build("qwen2"), prompts(3)
    with regrow.prune(model, METHOD, record_masks=True) as session:
        regrow.generate(model, **arguments(batch))
        own = session.masks
        pruner_of(session).memory.dictate(scores(0.5))
        regrow.generate(model, **arguments(batch))
        assert not all(
            torch.equal(ours, theirs) for (_, ours), (_, theirs) in zip(own, session.masks, strict=True)
        )
        pruner_of(session).memory.dictate([])
        regrow.generate(model, **arguments(batch))
        assert all(
            torch.equal(ours, theirs) for (_, ours), (_, theirs) in zip(own, session.masks, strict=True)
        )


def test_methods_that_choose_in_every_step_are_told_nothing() -> None:
    model, batch = build("qwen2"), prompts(3)
    method = regrow.WINA(selection="topk")
    with regrow.prune(model, method) as session:
        own = model.generate(**arguments(batch))
        pruner_of(session).memory.dictate(scores(0.5))
        assert torch.equal(model.generate(**arguments(batch)), own)


def test_scores_are_drawn_by_a_seed() -> None:
    for ours, again in zip(scores(0.5, 4), scores(0.5, 4), strict=True):
        assert torch.equal(ours, again)
        assert ours.sum(1).tolist() == [KEEP] * LAYERS
        assert not torch.equal(ours[0], ours[1])  # every layer its own
