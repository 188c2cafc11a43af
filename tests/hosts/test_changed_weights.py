"""Weights that change between two batches of an open context.

The next batch gives the result of a fresh context, or raises UsageError.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

import regrow
from batches import arguments, prompts
from calibrations import calibration_for
from families import build
from regrow.errors import UsageError
from regrow.method.base import Method, Needs
from spread import spread

BATCH = prompts(3, seed=4)
METHODS: list[Method] = [
    regrow.Dense(),
    regrow.BatchwiseAdaptive(sparsity=0.5, init_steps=3, explore_steps=1, period=4),
    regrow.BatchwiseAdaptive(sparsity=0.5, init_steps=3, explore_steps=1, period=4, weigh="down"),
    regrow.Griffin(sparsity=0.5),
    regrow.Magnitude(sparsity=0.5),
    regrow.RandomNeurons(sparsity=0.5),
    regrow.EveryToken(sparsity=0.5),
    regrow.WINA(sparsity=0.5, selection="topk"),
    regrow.TEAL(sparsity=0.5),
    regrow.CATS(sparsity=0.5),
    regrow.Wanda(pattern="2:4"),
]


def trained(model: PreTrainedModel) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    model(input_ids=torch.tensor([[5, 9, 7, 3]]), labels=torch.tensor([[5, 9, 7, 3]])).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


@torch.no_grad()
def scaled(model: PreTrainedModel) -> None:
    for parameter in model.model.parameters():
        parameter.mul_(1.5)


def data_scaled(model: PreTrainedModel) -> None:
    for parameter in model.model.parameters():
        parameter.data.mul_(1.5)


def down_of_one_layer(model: PreTrainedModel) -> None:
    model.model.layers[1].mlp.down_proj.weight.data.neg_()


def one_row(model: PreTrainedModel) -> None:
    model.model.layers[0].mlp.down_proj.weight.data[3].mul_(30)


def neurons_permuted(model: PreTrainedModel) -> None:
    """Permute only `down`, so that the FFN computes something else."""
    weight = model.model.layers[0].mlp.down_proj.weight
    weight.data.copy_(weight.data.flip(1))


def through_numpy(model: PreTrainedModel) -> None:
    for layer in model.model.layers:
        layer.mlp.down_proj.weight.detach().numpy()[:] *= -1


def data_replaced(model: PreTrainedModel) -> None:
    for parameter in model.model.parameters():
        parameter.data = parameter.data * 1.5


def new_parameters(model: PreTrainedModel) -> None:
    for layer in model.model.layers:
        for name in ("gate_proj", "up_proj", "down_proj"):
            linear = getattr(layer.mlp, name)
            linear.weight = nn.Parameter(linear.weight.detach() * -1.5)


def loaded(model: PreTrainedModel) -> None:
    model.load_state_dict({name: 1.5 * tensor for name, tensor in model.state_dict().items()})


def assigned(model: PreTrainedModel) -> None:
    model.load_state_dict({name: 1.5 * tensor for name, tensor in model.state_dict().items()}, assign=True)


CHANGES: list[Callable[[PreTrainedModel], None]] = [
    trained,
    scaled,
    data_scaled,
    down_of_one_layer,
    one_row,
    neurons_permuted,
    through_numpy,
    data_replaced,
    new_parameters,
    loaded,
    assigned,
]


def answer(model: PreTrainedModel) -> list[list[int]]:
    return model.generate(**arguments(BATCH)).tolist()


@pytest.mark.parametrize(
    ("family", "method", "change"),
    [("llama", METHODS[1], change) for change in CHANGES]
    + [("llama", *case) for case in spread([METHODS[0], *METHODS[2:]], CHANGES, 3)]
    + [("gemma2", *case) for case in spread(METHODS[::-1], CHANGES)],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "name", None) or value.__name__,
)
def test_a_batch_after_a_change_is_that_of_a_fresh_context(
    family: str, method: Method, change: Callable[[Any], None]
) -> None:
    model = build(family)
    calibration = calibration_for(model, method)
    with regrow.prune(model, method, calibration=calibration):
        before = answer(model)
        change(model)
        after = tokens_or_sentence(lambda: answer(model))
    if method.needs is Needs.WEIGHTS:
        assert "calibrate again" in after  # the change would be lost when the context ends
        return
    with ExitStack() as context:
        wanted = tokens_or_sentence(
            lambda: (
                context.enter_context(regrow.prune(model, method, calibration=calibration)) and answer(model)
            )
        )
    assert after == wanted
    assert after != before


def tokens_or_sentence(call: Callable[[], Any]) -> Any:
    """Return the result of a call, or the message of its UsageError."""
    try:
        return call()
    except UsageError as error:
        return str(error)


def test_unchanged_weights_are_not_taken_up_again() -> None:
    model = build("llama")
    with regrow.prune(model, METHODS[1]) as session:
        answer(model)
        pruner = session.pruner
        answer(model)
        assert session.pruner is pruner
        scaled(model)
        answer(model)
        assert session.pruner is not pruner


def test_a_change_between_entering_and_the_first_batch_counts() -> None:
    model = build("llama")
    with regrow.prune(model, regrow.Magnitude(sparsity=0.5)):
        data_scaled(model)
        model.model.layers[0].mlp.gate_proj.weight.data[:32].mul_(20)
        after = answer(model)
    with regrow.prune(model, regrow.Magnitude(sparsity=0.5)):
        assert after == answer(model)


def test_weights_that_stand_in_for_the_models_own_are_not_changed_silently() -> None:
    """The changes would be lost when the context ends."""
    model, method = build("llama"), regrow.Wanda(pattern="2:4")
    with regrow.prune(model, method, calibration=calibration_for(model, method)):
        answer(model)
        loaded(model)
        with pytest.raises(UsageError, match="calibrate again"):
            answer(model)


def test_leaving_keeps_a_change_and_restores_the_rest() -> None:
    model, other = build("llama"), build("llama")
    with regrow.prune(model, METHODS[1]):
        answer(model)
        scaled(model)
        answer(model)
    scaled(other)
    assert answer(model) == answer(other)
    assert not any("forward" in vars(module) for module in model.modules())
