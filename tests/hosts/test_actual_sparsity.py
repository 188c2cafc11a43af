"""Reported sparsity equals the schedule's closed form and the counts of a spy on the kernel dispatch."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

import naive
import regrow
from batches import arguments, prompts
from families import LAYERS, NEURONS, VOCABULARY, WIDTH, build
from regrow.core import FFNWeights
from regrow.kernels import sparse_ffn
from regrow.kernels.pruned_ffn.compact import CompactFFN


@dataclass
class Spy:
    """Replaces the dispatch and counts the weight rows that each call of a sparse FFN multiplies with."""

    rows: list[int] = field(default_factory=list)
    inputs: list[tuple[int, ...]] = field(default_factory=list)

    def __call__(
        self, weights: FFNWeights, keep: int, scratch: Tensor, *, varies: bool, laid_out: None
    ) -> _Seen:
        inner = sparse_ffn(weights, keep, scratch, varies=varies)
        assert isinstance(inner, CompactFFN)
        return _Seen(self, inner)


class _Seen:
    def __init__(self, spy: Spy, inner: CompactFFN) -> None:
        self.spy, self.inner = spy, inner
        self.state_bytes, self.forget, self.load = inner.state_bytes, inner.forget, inner.load
        act = inner._act

        def counting(gate: Tensor) -> Tensor:
            spy.rows.append(gate.shape[-1])  # the input of the activation is the output of the gate
            return act(gate)

        inner._act = counting

    def __call__(self, x: Tensor) -> Tensor:
        self.spy.inputs.append(tuple(x.shape))
        return self.inner(x)


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    spy = Spy()
    monkeypatch.setattr("regrow.pruning.neurons.sparse_ffn", spy)
    return spy


def sparse_steps(method: regrow.BatchwiseAdaptive, steps: int) -> int:
    """Return how many of the first decode steps are sparse, in closed form."""
    cycles, rest = divmod(max(steps - method.init_steps, 0), method.period)
    return cycles * (method.period - method.explore_steps) + min(rest, method.period - method.explore_steps)


METHODS = {
    "defaults": (64, 2, 20),
    "short": (5, 2, 7),
    "from the prompt": (0, 1, 4),
    "never again": (3, 0, 6),
}


@pytest.mark.parametrize("tokens", [30, 100])
@pytest.mark.parametrize("sparsity", ["0.5", "0.7"])
@pytest.mark.parametrize("name", METHODS)
def test_actual_sparsity_is_the_closed_form_and_what_was_computed(
    spy: Spy, name: str, sparsity: str, tokens: int
) -> None:
    method = regrow.BatchwiseAdaptive(sparsity, *METHODS[name])
    given = arguments(prompts(4), max_new_tokens=tokens)
    ids, mask = given.pop("input_ids"), given.pop("attention_mask")
    report = regrow.generate(build("qwen2"), ids, mask, method=method, **given).report
    steps, sparse, keep = tokens - 1, sparse_steps(method, tokens - 1), naive.kept_count(sparsity, NEURONS)
    assert (report.decode_steps, report.sparse_steps) == (steps, sparse)
    assert report.actual_sparsity == pytest.approx((1 - keep / NEURONS) * sparse / steps, rel=1e-12)
    assert report.sparse_share == sparse / steps
    assert spy.rows == [keep] * (sparse * LAYERS)
    assert spy.inputs == [(4, 1, WIDTH)] * (sparse * LAYERS)
    assert report.weights_kept == (sum(spy.rows) + (steps - sparse) * LAYERS * NEURONS) * 3 * WIDTH
    assert report.weights_dense == steps * LAYERS * NEURONS * 3 * WIDTH
    assert report.ffn_bytes_read == report.weights_kept * 4


@pytest.mark.parametrize(
    ("dtype", "size"), [(torch.bfloat16, 2), (torch.float32, 4), (torch.float64, 8)], ids=str
)
def test_bytes_follow_the_dtype(dtype: torch.dtype, size: int) -> None:
    given = arguments(prompts(2))
    ids, mask = given.pop("input_ids"), given.pop("attention_mask")
    report = regrow.generate(
        build("llama", dtype), ids, mask, method=regrow.Griffin(sparsity=0.5), **given
    ).report
    assert report.ffn_bytes_read == 19 * LAYERS * (NEURONS // 2) * 3 * WIDTH * size
    assert report.refresh_bytes == 2 * LAYERS * (NEURONS // 2) * 3 * WIDTH * size


def test_skipped_layers_count_as_dense(spy: Spy) -> None:
    given = arguments(prompts(2))
    model = build("qwen2")
    with regrow.prune(model, regrow.Griffin(sparsity=0.5), skip_layers=[0]) as session:
        model.generate(**given)
        report = session.report()
    assert spy.rows == [NEURONS // 2] * 19
    assert report.weights_dense == 19 * 2 * NEURONS * 3 * WIDTH
    assert report.weights_kept == 19 * (NEURONS + NEURONS // 2) * 3 * WIDTH
    assert report.sites["down"].kept == [19 * NEURONS * WIDTH, 19 * NEURONS // 2 * WIDTH]
    assert report.actual_sparsity == 0.25
    assert report.ffn_bytes_read == report.weights_kept * 4
    assert len(report.turnover) == 1


def test_dense_reads_every_weight_at_every_step(spy: Spy) -> None:
    given = arguments(prompts(2))
    ids, mask = given.pop("input_ids"), given.pop("attention_mask")
    report = regrow.generate(build("qwen2"), ids, mask, **given).report
    assert spy.rows == []
    assert report.weights_kept == report.weights_dense == 19 * LAYERS * NEURONS * 3 * WIDTH
    assert report.ffn_bytes_read == 19 * LAYERS * NEURONS * 3 * WIDTH * 4
    assert (report.actual_sparsity, report.sparse_share, report.updates, report.refresh_bytes) == (
        0.0,
        0.0,
        0,
        0,
    )


def test_rows_that_ended_early_leave_the_account_of_the_batch_as_it_is(spy: Spy) -> None:
    """A step reads the weights once for the whole batch, however many rows still run."""
    model, batch = build("qwen2"), prompts(4)
    method = regrow.BatchwiseAdaptive("0.5", 2, 1, 5)
    given = arguments(batch)
    ids, mask = given.pop("input_ids"), given.pop("attention_mask")
    first = regrow.generate(model, ids, mask, method=method, **given)
    eos = first.tokens[0][4]
    spy.rows.clear()
    report = regrow.generate(model, ids, mask, method=method, **given | {"eos_token_id": eos}).report
    assert min(report.tokens) < max(report.tokens)
    assert eos != VOCABULARY
    assert report.decode_steps == max(report.tokens) - 1
    assert report.sparse_steps == sparse_steps(method, report.decode_steps)
    assert spy.rows == [NEURONS // 2] * (report.sparse_steps * LAYERS)
