"""`model.to(...)` in an open context.

The next batch gives the result of a fresh context on the moved model, or raises UsageError.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

import regrow
from batches import arguments, prompts
from calibrations import calibration_for
from families import build
from regrow.calibration.calibration import fingerprint
from regrow.errors import UsageError

BATCH = prompts(3)
METHODS = [
    regrow.Dense(),
    regrow.BatchwiseAdaptive(sparsity=0.5, init_steps=3, explore_steps=1, period=4),
    regrow.BatchwiseAdaptive(sparsity=0.5, init_steps=3, explore_steps=1, period=4, weigh="down"),
    regrow.Griffin(sparsity=0.5),
    regrow.Magnitude(sparsity=0.5),
    regrow.WINA(sparsity=0.5),
    regrow.TEAL(sparsity=0.5),
    regrow.Wanda(pattern="2:4"),
]


def sequences_or_sentence(call: Callable[[], Tensor]) -> Tensor | str:
    """Return the result of a call, or the message of its UsageError."""
    try:
        return call()
    except UsageError as error:
        return str(error)


MOVES: dict[str, Callable[[PreTrainedModel], object]] = {
    "float64": lambda model: model.to(torch.float64),
    "bfloat16": lambda model: model.to(torch.bfloat16),
    "there and back": lambda model: model.to(torch.bfloat16).to(torch.float32),
    "device": lambda model: model.to("cpu"),
}


def moved(family: str, move: str) -> PreTrainedModel:
    model = build(family)
    MOVES[move](model)
    return model


def refitted(calibration: regrow.Calibration | None, model: PreTrainedModel) -> regrow.Calibration | None:
    """Return the same calibration under the fingerprint of another model."""
    if calibration is None:
        return None
    return replace(calibration, origin=replace(calibration.origin, fingerprint=fingerprint(model)))


def cases() -> list[tuple[Any, str]]:
    """Return every method with every move, except one pair that would give different results.

    Wanda replaces weights and sets the originals aside, so `there and back` does not round the originals.
    """
    return [
        (method, move)
        for method in METHODS
        for move in MOVES
        if (method.name, move) != ("wanda", "there and back")
    ]


@pytest.mark.parametrize(
    ("method", "move"), cases(), ids=lambda value: value if isinstance(value, str) else value.name
)
def test_after_a_move_it_is_as_after_entering_anew(method: Any, move: str) -> None:
    model, other = build("llama"), moved("llama", move)
    stock, calibration = other.generate(**arguments(BATCH)), calibration_for(model, method)
    with regrow.prune(other, method, calibration=refitted(calibration, other)):
        want = other.generate(**arguments(BATCH))
    with regrow.prune(model, method, calibration=calibration):
        model.generate(**arguments(BATCH))
        MOVES[move](model)
        got = sequences_or_sentence(lambda: model.generate(**arguments(BATCH)))
    if isinstance(got, str):  # the message of a UsageError
        assert "\n" not in got
    else:
        assert torch.equal(got, want)
    assert "generate" not in vars(model)
    assert {parameter.dtype for parameter in model.parameters()} == {other.dtype}
    assert torch.equal(model.generate(**arguments(BATCH)), stock)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_a_move_to_where_nothing_can_run_is_one_sentence(method: Any) -> None:
    model = build("llama")
    with regrow.prune(model, method, calibration=calibration_for(model, method)):
        model.to("meta")
        with pytest.raises(UsageError) as refusal:
            regrow.generate(model, **arguments(BATCH))
        assert "\n" not in str(refusal.value)
    assert "generate" not in vars(model)
