"""What every method of the registry must do, on a few families."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

import regrow
from batches import PAD, arguments, ends, new_tokens, prompts
from families import LAYERS, NEURONS, build
from regrow.core import FFNWeights
from regrow.errors import UsageError
from regrow.kernels import reference, sparse_ffn
from regrow.method.base import Method
from regrow.method.presets import METHODS, make, parameters

FAMILIES = ("qwen2", "phi3", "gemma2")
BATCH = prompts(4, seed=2)
# Small steps, so that a short run holds several cycles; a method takes those of them that it knows.
SETTINGS: dict[str, Any] = {"sparsity": "0.6", "init_steps": 3, "explore_steps": 1, "period": 4}

pytestmark = [pytest.mark.parametrize("name", METHODS)]
over_families = pytest.mark.parametrize("family", FAMILIES)


def method_of(name: str, **changes: Any) -> Method:
    return make(name, **{key: value for key, value in (SETTINGS | changes).items() if key in parameters(name)})


def run(
    model: PreTrainedModel, method: Method, **settings: Any
) -> tuple[list[list[int]], list[tuple[int, list[list[int]]]], dict[str, Any]]:
    """Return new tokens, masks and the report without the clock."""
    with regrow.prune(model, method, record_masks=True) as session:
        given = arguments(BATCH, **settings)
        sequences = model.generate(**given)
        report = session.report().to_dict()
        del report["prefill_seconds"], report["decode_seconds"]
        masks = [(step, index.tolist()) for step, index in session.masks]
    return sequences[:, given["input_ids"].shape[1] :].tolist(), masks, report


@over_families
def test_zero_sparsity_is_the_stock_model(name: str, family: str) -> None:
    model = build(family)
    settings: dict[str, Any] = {"eos_token_id": ends(model, BATCH)}
    stock = new_tokens(BATCH, model.generate(**arguments(BATCH, **settings)))
    tokens, masks, report = run(model, method_of(name, sparsity=0), **settings)
    assert tokens == stock
    assert masks == []
    assert report["neurons_computed"] == report["neurons_dense"]


@over_families
def test_sparse_steps_compute_the_definition(name: str, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call of the kernel in a run against the reference on the set it was last given, in float64."""
    calls: list[float] = []

    class Checked:
        def __init__(self, weights: FFNWeights, keep: int, scratch: Tensor) -> None:
            self.weights, self.inner = weights, sparse_ffn(weights, keep, scratch)
            self.forget, self.state_bytes = self.inner.forget, self.inner.state_bytes
            self.index = torch.empty(0)

        def load(self, index: Tensor) -> int:
            self.index = index.clone()
            return self.inner.load(index)

        def __call__(self, x: Tensor) -> Tensor:
            y = self.inner(x)
            want = reference.sparse_ffn(self.weights, self.index, x)
            calls.append(float((y - want).norm() / want.norm()))
            return y

    monkeypatch.setattr("regrow.session.sparse_ffn", Checked)
    *_, report = run(build(family, torch.float64), method_of(name))
    assert len(calls) == report["sparse_steps"] * LAYERS
    assert max(calls, default=0.0) < 1e-13  # sums of some tens of terms in another order


@over_families
def test_masks_and_tokens_do_not_see_padding(name: str, family: str) -> None:
    model = build(family, torch.float64)
    plain = run(model, method_of(name))
    given = arguments(BATCH)
    wide = {
        "input_ids": torch.nn.functional.pad(given["input_ids"], (5, 0), value=PAD),
        "attention_mask": torch.nn.functional.pad(given["attention_mask"], (5, 0), value=0),
    }
    assert run(model, method_of(name), **wide) == plain
    other = given["input_ids"].masked_fill(given["attention_mask"] == 0, 33)  # which id pads does not matter either
    assert run(model, method_of(name), input_ids=other) == plain


@over_families
def test_masks_do_not_see_the_order_of_rows(name: str, family: str) -> None:
    model = build(family, torch.float64)
    tokens, masks, _ = run(model, method_of(name))
    order = [2, 0, 3, 1]
    given = arguments(BATCH)
    turned = run(model, method_of(name), **{key: given[key][order] for key in ("input_ids", "attention_mask")})
    assert turned[:2] == ([tokens[row] for row in order], masks)


@over_families
def test_a_used_session_is_as_a_fresh_one(name: str, family: str) -> None:
    """Bit for bit, in float32."""
    model, method = build(family), method_of(name)
    fresh = run(model, method)
    with regrow.prune(model, method, record_masks=True) as session:
        model.generate(**arguments(prompts(7, seed=5)))
        tokens = new_tokens(BATCH, model.generate(**arguments(BATCH)))
        report = session.report().to_dict()
        del report["prefill_seconds"], report["decode_seconds"]
        assert (tokens, [(step, index.tolist()) for step, index in session.masks], report) == fresh


@over_families
def test_leaving_restores_logits_and_attributes(name: str, family: str) -> None:
    model = build(family)
    model.generate(**arguments(BATCH))

    def seen() -> tuple[list[list[tuple[str, int]]], list[str], list[float]]:
        with torch.no_grad():
            logits = model(arguments(BATCH)["input_ids"], use_cache=False).logits
        return [[(key, id(value)) for key, value in vars(m).items()] for m in model.modules()], list(model.state_dict()), logits.tolist()

    before = seen()
    run(model, method_of(name))
    assert seen() == before


def test_what_it_keeps_is_what_its_sparsity_says(name: str) -> None:
    tokens, masks, report = run(build("qwen2"), method_of(name))
    kept = NEURONS * 4 // 10 if "sparsity" in parameters(name) else NEURONS
    assert {len(layer) for _, mask in masks for layer in mask} <= {kept}
    steps = report["decode_steps"] * LAYERS * NEURONS
    assert report["neurons_computed"] == steps - report["sparse_steps"] * LAYERS * (NEURONS - kept)
    assert report["target_sparsity"] == (0.6 if kept < NEURONS else 0)
    assert report["tokens"] == [len(row) for row in tokens]


def test_its_description_makes_it_again(name: str) -> None:
    method = method_of(name)
    described = method.describe()
    assert described.pop("name") == name
    assert list(described) == list(parameters(name)) == [field.name for field in fields(METHODS[name])]
    assert make(name, **described).describe() == method.describe()
    assert method.summary
    assert method.source


def test_bad_parameters_are_refused_before_any_model(name: str) -> None:
    bad: dict[str, Any] = {"sparsity": 1, "init_steps": -1, "explore_steps": 99, "period": 0, "aggregate": "sum", "memory": "", "decay": 2}
    for key in [key for key in bad if key in parameters(name)]:
        with pytest.raises(UsageError):
            method_of(name, **{key: bad[key]})
    with pytest.raises(UsageError, match="has no parameter 'nothing'"):
        make(name, nothing=1)
    with pytest.raises(UsageError, match=f"unknown method '{name}x'; choose one of"):
        make(f"{name}x")
