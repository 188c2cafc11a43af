"""Leaving `prune` restores a model exactly, however it is left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

import regrow
from batches import arguments, prompts
from families import FAMILIES, STRUCTURES, build
from regrow.hosts.hugging_face import active_session

BATCH = prompts(4)
METHOD = regrow.BatchwiseAdaptive(sparsity=0.5, init_steps=3, explore_steps=1, period=4)
PRUNABLE = [*FAMILIES, *STRUCTURES]


def traces(model: nn.Module) -> list[tuple[str, list[tuple[str, int]]]]:
    """Return every instance attribute of every module: name, order and identity of the value."""
    return [
        (name, [(key, id(value)) for key, value in vars(module).items()])
        for name, module in model.named_modules()
    ]


@dataclass(frozen=True)
class Snapshot:
    """Everything in a model that could show that it was once pruned."""

    attributes: list[tuple[str, list[tuple[str, int]]]]
    state: dict[str, Tensor]
    logits: Tensor

    @classmethod
    def of(cls, model: PreTrainedModel) -> Snapshot:
        """Take a snapshot of the model."""
        settings = arguments(BATCH)
        with torch.no_grad():
            logits = model(
                settings["input_ids"], attention_mask=settings["attention_mask"], use_cache=False
            ).logits
        return cls(traces(model), {key: value.clone() for key, value in model.state_dict().items()}, logits)


@contextmanager
def restored(model: PreTrainedModel) -> Iterator[None]:
    """Assert that the block leaves no trace on the model."""
    # transformers sets some attributes on the first call.
    model.generate(**arguments(BATCH, max_new_tokens=2))
    before = Snapshot.of(model)
    yield
    after = Snapshot.of(model)
    assert after.attributes == before.attributes
    assert torch.equal(after.logits, before.logits)
    assert list(after.state) == list(before.state)
    assert all(torch.equal(value, before.state[key]) for key, value in after.state.items())
    assert "generate" not in vars(model)
    assert active_session(model) is None


@pytest.mark.parametrize("family", PRUNABLE)
def test_leaving_restores_exactly(family: str) -> None:
    model = build(family)
    with restored(model), regrow.prune(model, METHOD):
        assert "generate" in vars(model)
        state = model.state_dict()
        model.generate(**arguments(BATCH))
        assert list(model.state_dict()) == list(state)  # compact copies are not part of it


class FailsError(Exception):
    """Raised by a test in the middle of something."""


@pytest.mark.parametrize("error", [FailsError, KeyboardInterrupt])
@pytest.mark.parametrize("when", [1, 6, 8])
def test_an_exception_in_the_middle_of_decoding_leaves_no_trace(
    error: type[BaseException], when: int
) -> None:
    """The exception comes after the prompt, after a sparse step or after a dense step.

    Even before the context ends, the model computes densely again at once.
    """
    model = build("qwen2")

    def watch(progress: regrow.Progress) -> None:
        if progress.step == when:
            raise error

    with restored(model):
        with pytest.raises(error), regrow.prune(model, METHOD):
            model.generate(watch=watch, **arguments(BATCH))
        with regrow.prune(model, METHOD) as session:
            want, report = model.generate(**arguments(BATCH)), session.report()
            dense = Snapshot.of(model)
            with pytest.raises(error):
                model.generate(watch=watch, **arguments(BATCH))
            assert torch.equal(Snapshot.of(model).logits, dense.logits)
            assert torch.equal(model.generate(**arguments(BATCH)), want)
            assert session.report().weights_kept == report.weights_kept
    assert torch.equal(Snapshot.of(model).logits, dense.logits)


@pytest.mark.parametrize("error", [FailsError, KeyboardInterrupt])
def test_an_exception_inside_a_forward_leaves_no_trace(error: type[BaseException]) -> None:
    model = build("qwen2")
    calls = 0

    def hook(*args: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise error

    with restored(model):
        handle = model.model.layers[1].self_attn.register_forward_hook(hook)
        with regrow.prune(model, METHOD):
            with pytest.raises(error):
                model.generate(**arguments(BATCH))
            handle.remove()
            # The exception ended a sparse step. Outside of `generate`, the model is dense again at once.
            within = Snapshot.of(model).logits
    assert torch.equal(within, Snapshot.of(model).logits)
    assert calls == 6


def test_generate_restores_too_after_an_exception() -> None:
    model = build("qwen2")

    def watch(progress: regrow.Progress) -> None:
        raise FailsError

    given = arguments(BATCH)
    ids, mask = given.pop("input_ids"), given.pop("attention_mask")
    with restored(model), pytest.raises(FailsError):
        regrow.generate(model, ids, mask, method=METHOD, watch=watch, **given)


def test_a_generate_of_the_instance_itself_is_put_back() -> None:
    """Somebody may have patched `generate` before us."""
    model = build("qwen2")

    def theirs(*args: object, **kwargs: object) -> str:
        return "theirs"

    vars(model)["generate"] = theirs
    with regrow.prune(model, METHOD):
        assert vars(model)["generate"] is not theirs
    assert vars(model)["generate"] is theirs
