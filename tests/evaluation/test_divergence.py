"""Divergence from dense, compared with the same number computed by plain forward passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DynamicCache

import naive
from families import NEURONS, build
from regrow.errors import RegrowError
from regrow.evaluation import divergence as module
from regrow.evaluation.divergence import Trace, divergence, trace
from regrow.method.base import Method
from regrow.method.batchwise_adaptive import BatchwiseAdaptive
from regrow.method.dense import Dense
from regrow.method.magnitude import Magnitude
from regrow.models import Loaded

PROMPTS = [[5, 9, 31, 44], [7], [3, 3, 50, 8, 11]]


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> Loaded:
    model, tokenizer = build("qwen2", torch.float64), Any
    monkeypatch.setattr(module, "encode", lambda *_, **__: naive.left_pad(PROMPTS, 0))
    stock = model.generate(
        *naive.left_pad(PROMPTS, 0)[:1], max_new_tokens=12, do_sample=False, eos_token_id=95, pad_token_id=0
    )
    model.generation_config.eos_token_id = [int(stock[0, 9]), 95]
    model.generation_config.pad_token_id = 0
    return Loaded(model, tokenizer, "tiny", Path())


def _trace(loaded: Loaded) -> Trace:
    return trace(loaded, ["", "", ""], chat=False, max_new_tokens=16)


def test_a_trace_is_the_dense_answer(loaded: Loaded) -> None:
    made = _trace(loaded)
    ids, mask = naive.left_pad(PROMPTS, 0)
    stock = loaded.model.generate(ids, attention_mask=mask, max_new_tokens=16, do_sample=False)
    assert torch.equal(made.tokens, stock[:, 5:])
    assert len(made.logits) == made.tokens.shape[1]
    assert 1 < min(made.lengths.tolist()) < 16


@pytest.mark.parametrize(
    "method", [Dense(), Magnitude(sparsity=0), BatchwiseAdaptive(init_steps=99)], ids=lambda m: m.name
)
def test_what_is_dense_does_not_diverge(loaded: Loaded, method: Method) -> None:
    made = _trace(loaded)
    found = divergence(loaded, method, None, [made, made])
    assert found.tokens == 2 * sum(length - 1 for length in made.lengths.tolist())
    assert found.kl < 1e-25
    assert found.agreement == 1


def test_it_is_the_kl_of_every_live_token(loaded: Loaded) -> None:
    """Magnitude pruning, because its mask is simple. The prompt is dense, and so are its keys and values."""
    made, model = _trace(loaded), loaded.model
    found = divergence(loaded, Magnitude(sparsity="0.75"), None, [made])
    kl = agreeing = tokens = 0.0
    for row, prompt in enumerate(PROMPTS):
        length = int(made.lengths[row])
        answers: list[torch.Tensor] = []
        for pruned in (False, True):
            cache = DynamicCache(config=model.config)
            with torch.no_grad(), naive.tapped(model) as tap:
                model(torch.tensor([prompt]), past_key_values=cache)
                if pruned:
                    tap.kept = [_largest(mlp) for mlp in tap.mlps]
                steps = [
                    model(made.tokens[row, t].view(1, 1), past_key_values=cache).logits[0, -1]
                    for t in range(length - 1)
                ]
            answers.append(torch.stack(steps).log_softmax(-1))
        dense, sparse = answers
        kl += float((dense.exp() * (dense - sparse)).sum())
        agreeing += int((dense.argmax(-1) == sparse.argmax(-1)).sum())
        tokens += length - 1
    assert (found.tokens, found.agreeing) == (tokens, agreeing)
    # The loop gives logits in float32.
    assert found.kl == pytest.approx(kl, rel=1e-5)
    assert found.mean_kl > 1e-3
    assert agreeing < tokens
    assert found.weights_kept * 4 == found.weights_dense


def _largest(mlp: Any) -> list[int]:
    size = (
        mlp.gate_proj.weight.square().sum(1)
        + mlp.up_proj.weight.square().sum(1)
        + mlp.down_proj.weight.square().sum(0)
    )
    return sorted(size.argsort(descending=True)[: NEURONS // 4].tolist())


def test_progress_is_told(loaded: Loaded) -> None:
    told: list[tuple[int, int]] = []
    divergence(loaded, Dense(), None, [_trace(loaded)] * 2, lambda done, of: told.append((done, of)))
    assert told == [(1, 2), (2, 2)]


def test_answers_of_one_token_compare_nothing(loaded: Loaded) -> None:
    short = trace(loaded, ["", "", ""], chat=False, max_new_tokens=1)
    with pytest.raises(RegrowError, match="no token after the first"):
        divergence(loaded, Dense(), None, [short])


def test_logits_that_overflow_are_no_result(loaded: Loaded) -> None:
    made, head = _trace(loaded), loaded.model.lm_head.weight
    with torch.no_grad():
        head[3] = torch.inf
    with pytest.raises(RegrowError, match="method 'dense' gives logits that are not finite"):
        divergence(loaded, Dense(), None, [made])
