"""An error that a caller's function raises during a batch reaches the caller, and the next batch is right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import regrow
from batches import arguments, prompts
from families import build
from regrow.hosts.turns import turn_of

BATCH = prompts(3)
METHODS = [regrow.Dense(), regrow.BatchwiseAdaptive(sparsity=0.5, init_steps=3, explore_steps=1, period=4)]


class FailsError(Exception):
    """Raised by a test in the middle of something."""


def failing(at: int, error: type[BaseException]) -> Callable[..., Any]:
    """Return a function that fails at its n-th call."""
    calls = 0

    def call(*args: Any, **_: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at:
            raise error
        return args[-1] if len(args) == 2 else torch.zeros(len(BATCH), dtype=torch.bool)

    return call


class Streams:
    def __init__(self, put: Callable[..., Any], end: Callable[..., Any] = lambda: None) -> None:
        self.put, self.end = put, end


DOORS: dict[str, Callable[[type[BaseException]], dict[str, Any]]] = {
    "watch": lambda error: {"watch": failing(6, error)},
    "mark, in the prompt": lambda error: {"mark": failing(1, error)},
    "mark, later": lambda error: {"mark": failing(7, error)},
    "streamer, on the prompt": lambda error: {"streamer": Streams(failing(1, error))},
    "streamer, later": lambda error: {"streamer": Streams(failing(7, error))},
    "streamer, at its end": lambda error: {"streamer": Streams(lambda _: None, failing(1, error))},
    "processor": lambda error: {"logits_processor": [failing(6, error)]},
    "prefix": lambda error: {"prefix_allowed_tokens_fn": lambda row, ids: failing(1, error)()},
}


@pytest.mark.parametrize("error", [FailsError, KeyboardInterrupt, StopIteration])
@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_the_batch_after_a_failure_is_right(method: Any, door: str, error: type[BaseException]) -> None:
    model = build("llama")
    stock = model.generate(**arguments(BATCH))
    with regrow.prune(model, method) as session:
        want, report = model.generate(**arguments(BATCH)), session.report()
        with pytest.raises(error):
            model.generate(**arguments(BATCH), **DOORS[door](error))
        with turn_of(model).take("a test"):
            pass  # no call holds the lock
        assert torch.equal(model.generate(**arguments(BATCH)), want)
        assert session.report().weights_kept == report.weights_kept
        assert session.report().tokens == report.tokens
    assert "generate" not in vars(model)
    assert torch.equal(model.generate(**arguments(BATCH)), stock)


@pytest.mark.parametrize("error", [FailsError, KeyboardInterrupt])
def test_without_a_context_the_model_is_restored_as_well(error: type[BaseException]) -> None:
    model = build("llama")
    want = regrow.generate(model, **arguments(BATCH), method=METHODS[1])
    for door in ("watch", "processor", "streamer, later"):
        with pytest.raises(error):
            regrow.generate(model, **arguments(BATCH), method=METHODS[1], **DOORS[door](error))
        assert "generate" not in vars(model)
        assert all(
            "forward" not in vars(module) and "__getstate__" not in vars(module) for module in model.modules()
        )
    assert torch.equal(
        regrow.generate(model, **arguments(BATCH), method=METHODS[1]).sequences, want.sequences
    )


def test_tokens_that_a_streamer_is_given_are_those_of_stock() -> None:
    model, got = build("llama"), []
    stock: list[Tensor] = []
    model.generate(**arguments(BATCH[:1]), streamer=Streams(stock.append))
    with regrow.prune(model, regrow.Dense()):
        model.generate(**arguments(BATCH[:1]), streamer=Streams(got.append))
    assert [value.tolist() for value in got] == [value.tolist() for value in stock]
