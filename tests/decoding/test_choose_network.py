"""A model that is not what its class says gives stock transformers' tokens, through its own forward; one that is, is run by
its parts, also once a change is undone."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

import regrow
from batches import arguments, prompts
from changes import CHANGES
from families import build
from regrow.decoding.choose_network import Networks

PROMPTS = prompts(3)
BY_PARTS = "FusedNetwork"
# They go into what a network by parts is made of: it is made anew, and gives the changed tokens.
SEEN = {"frequencies_written", "frequencies_replaced", "epsilon", "epsilon of the last norm", "scaling of angles"}


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The classes of the networks of all batches."""
    names: list[str] = []
    choose = Networks.for_batch

    def spy(self: Networks, *args: Any, **kwargs: Any) -> Any:
        network = choose(self, *args, **kwargs)
        names.append(type(network).__name__)
        return network

    monkeypatch.setattr(Networks, "for_batch", spy)
    return names


def tokens(model: PreTrainedModel) -> Tensor:
    found = model.generate(**arguments(PROMPTS))
    assert isinstance(found, Tensor)
    return found


@pytest.mark.parametrize("name", CHANGES)
def test_a_model_changed_before_is_what_transformers_makes_of_it(name: str, monkeypatch: pytest.MonkeyPatch, chosen: list[str]) -> None:
    model = build("llama")
    unchanged = tokens(model)
    with ExitStack() as stack:
        CHANGES[name](model, monkeypatch, stack)
        theirs = tokens(model)
        with regrow.prune(model, regrow.Dense()):
            assert torch.equal(tokens(model), theirs)
    assert not torch.equal(theirs, unchanged), "the change shows in no token"
    assert (chosen == [BY_PARTS]) == (name in SEEN)


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_between_two_batches_is_seen_and_forgotten_once_undone(
    name: str, monkeypatch: pytest.MonkeyPatch, chosen: list[str]
) -> None:
    model = build("llama")
    unchanged = tokens(model)
    with ExitStack() as stack, monkeypatch.context() as patch:
        CHANGES[name](model, patch, stack)
        theirs = tokens(model)
    with regrow.prune(model, regrow.Dense()):
        assert torch.equal(tokens(model), unchanged)
        with monkeypatch.context() as patch, ExitStack() as stack:
            CHANGES[name](model, patch, stack)
            assert torch.equal(tokens(model), theirs)
        assert torch.equal(tokens(model), unchanged)
    assert [network == BY_PARTS for network in chosen] == [True, name in SEEN, True]
