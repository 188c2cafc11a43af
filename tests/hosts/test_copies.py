"""A copy of a pruned model is the plain model, however it is made; the pruned one stays pruned."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

import regrow
from batches import arguments, prompts
from calibrations import calibration_for
from copies import deep, pickled, saved, sent, shallow
from families import build
from regrow.errors import UsageError

BATCH = prompts(3)
METHOD = regrow.BatchwiseAdaptive(sparsity=0.5, init_steps=3, explore_steps=1, period=4)


WHOLE = [deep, pickled, saved, sent]


def prunes(
    model: PreTrainedModel, method: regrow.BatchwiseAdaptive | regrow.Wanda | regrow.TEAL
) -> dict[str, Any]:
    return {"method": method, "calibration": calibration_for(model, method)}


METHODS = [METHOD, regrow.TEAL(sparsity=0.5), regrow.Wanda(pattern="2:4")]


@pytest.mark.parametrize("way", WHOLE)
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_a_copy_made_within_is_the_plain_model(method: Any, way: Callable[[Any], Any]) -> None:
    """Copies made before or after the first batch hold the model's own weights, not a method's."""
    model = build("llama")
    stock, weights = (
        model.generate(**arguments(BATCH)),
        {key: value.clone() for key, value in model.state_dict().items()},
    )
    given = prunes(model, method)
    with regrow.prune(model, **given):
        early = way(model)
        pruned = model.generate(**arguments(BATCH))
        late = way(model)
        assert not torch.equal(pruned, stock)
        for other in (early, late):
            assert type(other) is type(model)
            assert all(
                list(vars(a)) == list(vars(b))
                for a, b in zip(other.modules(), build("llama").modules(), strict=True)
            )
            assert torch.equal(other.generate(**arguments(BATCH)), stock)
            assert all(torch.equal(value, weights[key]) for key, value in other.state_dict().items())
        assert torch.equal(model.generate(**arguments(BATCH)), pruned)
    assert torch.equal(model.generate(**arguments(BATCH)), stock)
    assert torch.equal(late.generate(**arguments(BATCH)), stock)


def test_a_shallow_copy_has_the_plain_generate() -> None:
    model = build("llama")
    stock = model.generate(**arguments(BATCH))
    with regrow.prune(model, METHOD):
        model.generate(**arguments(BATCH))
        assert torch.equal(shallow(model).generate(**arguments(BATCH)), stock)


@pytest.mark.parametrize("way", [deep, pickled])
def test_a_copy_can_be_pruned_on_its_own(way: Callable[[Any], Any]) -> None:
    model = build("llama")
    want = regrow.generate(model, **arguments(BATCH), method=METHOD).tokens
    with regrow.Engine(model, regrow.Griffin(sparsity=0.5)):
        other = way(model)
        assert regrow.generate(other, **arguments(BATCH), method=METHOD).tokens == want
        with regrow.Engine(other, METHOD) as engine:
            assert engine.generate(**arguments(BATCH)).tokens == want


@pytest.mark.parametrize("way", WHOLE)
def test_a_copy_of_the_pruned_generate_is_the_plain_one(way: Callable[[Any], Any]) -> None:
    """Another process receives such a copy when it is given `model.generate` to run."""
    model = build("llama")
    stock = model.generate(**arguments(BATCH))
    with regrow.prune(model, METHOD):
        assert torch.equal(way(model.generate)(**arguments(BATCH)), stock)


@pytest.mark.parametrize("way", WHOLE)
def test_a_model_inside_another_module_is_copied_with_it(way: Callable[[Any], Any]) -> None:
    model = build("llama")
    stock = model.generate(**arguments(BATCH))
    with regrow.prune(model, METHOD):
        other = way(nn.ModuleDict({"model": model}))
        assert torch.equal(other["model"].generate(**arguments(BATCH)), stock)


def test_what_is_saved_within_is_the_plain_model(tmp_path: Path) -> None:
    model = build("llama")
    stock = model.generate(**arguments(BATCH))
    with regrow.prune(model, METHOD):
        model.generate(**arguments(BATCH))
        model.save_pretrained(tmp_path)
        assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path).generate(**arguments(BATCH)), stock)


def test_an_engine_is_not_copied() -> None:
    with regrow.Engine(build("llama"), METHOD) as engine:
        for way in WHOLE:
            with pytest.raises(
                UsageError, match="cannot be copied or pickled; make one of a copy of the model"
            ):
                way(engine)


def test_leaving_after_copies_restores_exactly() -> None:
    model = build("llama")
    model.generate(**arguments(BATCH))
    before = [
        (list(vars(module)), [id(value) for value in vars(module).values()]) for module in model.modules()
    ]
    with regrow.prune(model, METHOD):
        for way in (*WHOLE, shallow):
            way(model)
    assert [
        (list(vars(module)), [id(value) for value in vars(module).values()]) for module in model.modules()
    ] == before
