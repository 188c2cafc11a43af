"""Places that a refresh changes: the compiled kernel and torch's operations against sets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kernels.compiled_here import COMPILED
from regrow.kernels.pruned_ffn import places as module
from regrow.kernels.pruned_ffn.places import Places

NEURONS = 20
INDEX = st.integers(1, NEURONS).flatmap(
    lambda keep: st.lists(st.sets(st.integers(0, NEURONS - 1), min_size=keep, max_size=keep), min_size=1)
)


class Uncompiled:
    def get(self, _: torch.dtype) -> None:
        return None


@pytest.fixture(params=[pytest.param(True, marks=COMPILED, id="compiled"), pytest.param(False, id="torch")])
def _form(request: pytest.FixtureRequest) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if not request.param:
            patch.setattr(module, "_TAKE", Uncompiled())
        yield


@pytest.mark.usefixtures("_form")
@given(history=INDEX)
def test_those_that_come_take_the_places_of_those_that_leave(history: list[set[int]]) -> None:
    tracker, held = Places(NEURONS), list[int]()
    for wanted in history:
        index = torch.tensor(sorted(wanted))
        places, incoming = tracker.take(index)
        expected = (
            [at for at, neuron in enumerate(held) if neuron not in wanted]
            if held
            else list(range(len(wanted)))
        )
        assert places.tolist() == expected
        assert incoming.tolist() == sorted(wanted - set(held))
        held = held or [-1] * len(wanted)
        for at, neuron in zip(places.tolist(), incoming.tolist(), strict=True):
            held[at] = neuron
        assert tracker.held.tolist() == held


@COMPILED
def test_an_index_need_not_be_contiguous() -> None:
    tracker, wide = Places(NEURONS), torch.arange(NEURONS).view(-1, 2)
    tracker.take(wide[:, 0])
    places, incoming = tracker.take(wide[:, 1])
    assert tracker.held.tolist() == incoming.tolist() == wide[:, 1].tolist()
    assert places.tolist() == list(range(NEURONS // 2))


@COMPILED
def test_refuses_a_neuron_twice_and_takes_nothing() -> None:
    tracker = Places(NEURONS)
    tracker.take(torch.tensor([1, 2, 3]))
    with pytest.raises(ValueError, match="twice"):
        tracker.take(torch.tensor([1, 1, 2]))
    assert tracker.held.tolist() == [1, 2, 3]


@COMPILED
def test_refuses_an_index_of_another_type() -> None:
    tracker = Places(NEURONS)
    tracker.take(torch.arange(4))
    with pytest.raises(TypeError, match="of type"):
        tracker.take(torch.arange(4, dtype=torch.int32))
