"""Pruning layer by layer leaves the model as it was, also after an error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import final

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

from families import FAMILIES, SIZES, build
from regrow.errors import RegrowError
from regrow.weights import WeightPruner
from regrow.weights.layerwise import prune_layers
from regrow.weights.pattern import Pattern
from regrow.weights.sparsegpt_pruner import SparseGPTPruner
from regrow.weights.wanda_pruner import WandaPruner

SEQUENCES = [torch.arange(3, 23), torch.arange(5, 38), torch.arange(40, 60)]
LENGTHS = 2  # number of distinct lengths


def wanda(weight: Tensor) -> WeightPruner:
    return WandaPruner(weight, Pattern("2:4"))


def adapting(family: str) -> PreTrainedModel:
    """A model whose rotary embedding replaces its buffer when it meets a long sequence."""
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    if family == "Phi3":
        rope = {
            "rope_type": "longrope",
            "rope_theta": 1e4,
            "short_factor": [1.0] * 4,
            "long_factor": [2.0] * 4,
        }
    settings = SIZES | {
        "max_position_embeddings": 16,
        "original_max_position_embeddings": 16,
        "rope_parameters": rope,
    }
    config = getattr(transformers, f"{family}Config")(**settings)
    return getattr(transformers, f"{family}ForCausalLM")(config).eval()


MODELS: dict[str, Callable[[], PreTrainedModel]] = {name: lambda name=name: build(name) for name in FAMILIES}
MODELS |= {"dynamic": lambda: adapting("Llama"), "longrope": lambda: adapting("Phi3")}


def attributes(model: nn.Module) -> list[tuple[str, str, int, list[tuple[object, int]]]]:
    """Return every instance attribute of every module by identity.

    Attributes that are dictionaries (parameters, buffers, hooks) come with their entries.
    """

    def entries(value: object) -> list[tuple[object, int]]:
        return [(key, id(entry)) for key, entry in value.items()] if isinstance(value, dict) else []

    return [
        (name, key, id(value), entries(value))
        for name, m in model.named_modules()
        for key, value in vars(m).items()
    ]


def values(model: nn.Module) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in (*model.parameters(), *model.buffers())]


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> Iterator[PreTrainedModel]:
    """A model that must be unchanged after the test, down to the identity of its attributes."""
    model = MODELS[request.param]()
    held, before, parameters = attributes(model), values(model), list(model.parameters())
    yield model
    assert attributes(model) == held
    assert all(map(torch.equal, values(model), before))
    assert [p.requires_grad for p in model.parameters()] == [True] * len(parameters)
    assert all(p.grad is None for p in parameters)


def test_is_as_it_was_after_pruning(model: PreTrainedModel) -> None:
    weights = prune_layers(model, SEQUENCES, SparseGPTPruner)
    own = {tensor.data_ptr() for tensor in model.parameters()}
    assert own.isdisjoint(weight.data_ptr() for weight in weights.values())


# The layer runs once for each length, to record its keyword arguments. It then runs twice for each sequence:
# to gather the inputs of its linear layers, and to compute the input of the next layer.
@pytest.mark.parametrize(
    "run", [1, LENGTHS + 1, LENGTHS + len(SEQUENCES) + 2], ids=["learning", "gathering", "feeding"]
)
@pytest.mark.parametrize("error", [KeyboardInterrupt, KeyError])
def test_is_as_it_was_after_an_error_inside_a_layer(
    model: PreTrainedModel, error: type[BaseException], run: int
) -> None:
    runs = 0

    def fails(*_: object) -> None:
        nonlocal runs
        runs += 1
        if runs == run:
            raise error("amid a layer")

    handle = model.model.layers[0].register_forward_hook(fails)  # the layer's inside has run
    try:
        with pytest.raises(error, match="amid a layer"):
            prune_layers(model, SEQUENCES, wanda)
    finally:
        handle.remove()
    assert runs == run


@final
class Failing(WeightPruner):
    """Fails in `add` or in `prune`, for a single weight."""

    def __init__(self, weight: Tensor, where: str, target: int) -> None:
        self._weight, self._where = weight, where if weight.data_ptr() == target else ""

    def add(self, x: Tensor) -> None:
        if self._where == "add":
            raise RegrowError("in add")

    def prune(self, name: str) -> Tensor:
        if self._where == "prune":
            raise RegrowError("in prune")
        return torch.zeros_like(self._weight)


@pytest.mark.parametrize("where", ["add", "prune"])
def test_is_as_it_was_after_a_pruner_failed_in_the_second_layer(model: PreTrainedModel, where: str) -> None:
    target = model.model.layers[1].mlp.down_proj.weight.data_ptr()
    with pytest.raises(RegrowError, match=f"in {where}"):
        prune_layers(model, SEQUENCES, lambda weight: Failing(weight, where, target))


def test_is_as_it_was_after_an_interrupt_between_layers(model: PreTrainedModel) -> None:
    def stop(done: int, layers: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prune_layers(model, SEQUENCES, wanda, stop)
