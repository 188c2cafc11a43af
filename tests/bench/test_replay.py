"""A replayed turnover is the one asked for, and everything but the choice of neurons is the method's own."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

import regrow
from batches import arguments, prompts
from families import NEURONS, build
from regrow.bench.replay import ReplayPruner
from regrow.pruning.neurons import NeuronPruner

METHOD = regrow.BatchwiseAdaptive(sparsity=0.5, init_steps=0, explore_steps=1, period=4)


@pytest.mark.parametrize("turnover", [0.0, 0.25, 1.0])
def test_every_refresh_replaces_the_share_asked_for(turnover: float) -> None:
    model, batch = build("qwen2"), prompts(3)
    with regrow.prune(model, METHOD, record_masks=True) as session:
        own = regrow.generate(model, **arguments(batch)).report
        assert isinstance(session.pruner, NeuronPruner)
        session.pruner = ReplayPruner(session.pruner, turnover, 20)
        for _ in range(2):
            report = regrow.generate(model, **arguments(batch)).report
            masks = [set(index[0].tolist()) for _, index in session.masks]
            assert {len(a & b) for a, b in pairwise(masks)} == {round((1 - turnover) * NEURONS / 2)}
            assert report.turnover == pytest.approx([turnover] * 2)
            assert (report.updates, report.weights_kept, report.decode_steps) == (own.updates, own.weights_kept, own.decode_steps)


def test_scores_are_drawn_by_a_seed() -> None:
    model, batch = build("qwen2"), prompts(3)
    seen = []
    for _ in range(2):
        with regrow.prune(model, METHOD, record_masks=True) as session:
            assert isinstance(session.pruner, NeuronPruner)
            session.pruner = ReplayPruner(session.pruner, 0.5, 20)
            regrow.generate(model, **arguments(batch))
            seen.append(torch.stack([index for _, index in session.masks]))
    assert torch.equal(*seen)
