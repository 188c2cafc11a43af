"""Weights laid out for oneDNN: tokens equal those of transformers, and changes of weights take effect."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedModel

import regrow
from batches import arguments, new_tokens
from kernels.compiled_here import COMPILED
from laid_out_models import (
    BAP,
    BATCH,
    METHODS,
    NATIVE_ALONE,
    OURS,
    WAYS,
    Way,
    build,
    copied,
    is_laid_out,
    measured,
    moved,
    tokens,
)
from regrow import kernels
from regrow.decoding import choose_network, stepper
from regrow.kernels import MatmulChoice
from regrow.kernels.laid_out.weight import few_rows_are_right
from regrow.kernels.pruned_ffn.cpu import CompiledFFN
from regrow.kernels.pruned_ffn.laid_out import LaidOutFFN
from regrow.method.base import Method
from spread import spread

pytestmark = pytest.mark.usefixtures("laid_out_with")


@pytest.mark.parametrize(("family", "way"), spread(["Llama", "Mistral", "Qwen2", "Qwen3"], WAYS))
@pytest.mark.parametrize(("tied", "rows"), [(False, 1), (True, 3)])
def test_dense_tokens_are_those_of_transformers(family: str, tied: bool, way: Way, rows: int) -> None:
    model, batch = build(family, tied=tied), BATCH[:rows]
    theirs, weights = tokens(model, batch), copy.deepcopy(model.state_dict())
    seen: list[bool] = []
    with way(model, regrow.Dense()):
        watched = arguments(batch, max_new_tokens=40) | {"watch": lambda _: seen.append(is_laid_out(model))}
        assert new_tokens(batch, model.generate(**watched)) == theirs
        assert tokens(model, batch) == theirs
    assert all(seen)
    assert len(seen) == 40
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())
    assert not is_laid_out(model)
    assert tokens(model, batch) == theirs


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
@pytest.mark.parametrize("way", WAYS)
def test_a_pruned_model_gives_the_tokens_of_plain_weights(
    method: Method, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, loads = build(), []
    for form in (LaidOutFFN, CompiledFFN):
        monkeypatch.setattr(
            form, "load", lambda self, index, load=form.load: loads.append(index) or load(self, index)
        )
    with monkeypatch.context() as plain:
        measured(plain, MatmulChoice("onednn", "onednn", 1, 0, {}))
        with regrow.prune(model, method):
            want = tokens(model)
    assert not loads
    with way(model, method):
        assert tokens(model) == want
    assert bool(loads) == (method.name in ("bap", "griffin", "magnitude"))


@pytest.mark.parametrize("way", WAYS)
def test_batches_of_one_row_and_of_several_take_turns(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    measured(monkeypatch, NATIVE_ALONE)
    model = build()
    want = [tokens(model, BATCH[:rows]) for rows in (3, 1, 3, 1)]
    with way(model, regrow.Dense()):
        found = []
        for rows in (3, 1, 3, 1):
            found.append(tokens(model, BATCH[:rows]))
            # Between batches, modules run their own forwards again, unless their weights were moved.
            assert is_laid_out(model) == (rows > 1 and way is moved)
    assert found == want


def replaced(model: PreTrainedModel) -> None:
    for layer in model.model.layers:
        for linear in (layer.mlp.gate_proj, layer.self_attn.q_proj, layer.self_attn.o_proj):
            linear.weight.data = torch.full_like(linear.weight, 0.125).copysign_(
                torch.randn(linear.weight.shape)
            )


def written(model: PreTrainedModel) -> None:
    for layer in model.model.layers:
        for linear in (layer.mlp.gate_proj, layer.self_attn.k_proj, layer.self_attn.o_proj):
            linear.weight.data.neg_()


@pytest.mark.parametrize("method", [regrow.Dense(), BAP], ids=["dense", "bap"])
@pytest.mark.parametrize(("way", "change"), [(copied, replaced), (copied, written), (moved, replaced)])
def test_weights_that_change_between_batches_are_followed(
    way: Way, change: Callable[..., None], method: Method
) -> None:
    model, other = build(), build()
    for one in (model, other):
        torch.manual_seed(1)
        change(one)
    with regrow.prune(other, method):
        want = tokens(other)
    model = build()
    with way(model, method):
        before = tokens(model)
        torch.manual_seed(1)
        change(model)
        assert tokens(model) == want != before
    assert all(torch.equal(weight, other.state_dict()[name]) for name, weight in model.state_dict().items())


@COMPILED
@pytest.mark.parametrize(
    ("name", "result"), [("add_rms_norm", 4), ("rope_cache", 10), ("decode_attention", 6)]
)
@pytest.mark.parametrize("way", WAYS)
def test_kernels_that_compute_something_else_are_not_used(
    way: Way, name: str, result: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The numerical check of the fused decoder detects them, so the model runs through its own forward."""
    model = build()
    if not kernels.steps_compiled(model.lm_head.weight, model.config.head_dim):
        pytest.skip("without a compiler there are no kernels to try")
    want, called = tokens(model), []

    def wrong(*arguments: torch.Tensor) -> None:
        called.append(name)
        arguments[result].normal_()

    monkeypatch.setattr(stepper, name, wrong)
    with way(model, regrow.Dense()):
        assert tokens(model) == want
    assert called
    assert all(torch.equal(weight, build().state_dict()[name]) for name, weight in model.state_dict().items())


@COMPILED
@pytest.mark.parametrize("method", [regrow.Dense(), BAP], ids=["dense", "bap"])
@pytest.mark.parametrize("way", WAYS)
def test_steps_are_replayed_and_recorded_anew_when_weights_lie_elsewhere(
    way: Way, method: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(monkeypatch, OURS)
    # With this vocabulary size, our own matmul takes the head as well.
    model, recorded, replayed = build(vocab_size=128), [], []
    if not kernels.steps_compiled(model.lm_head.weight, model.config.head_dim) or not few_rows_are_right(
        torch.float32
    ):
        pytest.skip("without a product of ours nothing is recorded")

    def record(step: Callable[[], torch.Tensor]) -> tuple[Callable[[], None], torch.Tensor] | None:
        recorded.append(found := kernels.record(step))
        return found and (lambda: replayed.append(found[0]()), found[1])

    monkeypatch.setattr(choose_network, "record", record)
    kinds = 2 if method is BAP else 1
    with regrow.prune(model, method):
        want = tokens(model)
    with way(model, method):
        assert tokens(model) == want
        assert len(recorded) == kinds  # with BAP, one for observed and one for sparse steps
        assert None not in recorded
        assert len(replayed) == 39 - kinds  # the first step of each kind runs eagerly
        handle = model.model.layers[0].register_forward_hook(lambda *_: None)
        tokens(model)  # through the model's own forward, which needs its weights back
        handle.remove()
        assert tokens(model) == want
        assert len(recorded) == 2 * kinds
