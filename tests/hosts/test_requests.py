"""Slots of requests that come and go, and the passes that they make."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regrow.hosts.vllm.requests import Requests, Scheduled


def test_a_prompt_in_chunks_then_decode_steps() -> None:
    requests = Requests(2)
    first = requests.arrange([chunk := Scheduled("a", 3, 0, 5)])
    assert (first.slots, first.joined, first.completed) == ([0, 0, 0], [0], [])
    assert first.prompt
    assert not first.decode
    requests.complete([chunk])
    mixed = [Scheduled("a", 2, 3, 5), Scheduled("b", 1, 0, 1)]
    second = requests.arrange(mixed)
    assert (second.slots, second.joined, second.completed) == ([0, 0, 1], [1], [0, 1])
    requests.complete(mixed)
    third = requests.arrange([Scheduled("b", 1, 1, 2), Scheduled("a", 1, 5, 6)])
    assert (third.slots, third.prompt, third.decode) == ([1, 0], False, True)


def test_a_request_that_computes_its_tokens_again_joins_anew() -> None:
    requests = Requests(1)
    requests.arrange([prompt := Scheduled("a", 4, 0, 4)])
    requests.complete([prompt])
    again = requests.arrange([Scheduled("a", 5, 0, 5)])
    assert (again.left, again.joined, again.completed) == ([0], [0], [0])
    assert again.prompt


def test_a_request_that_is_not_scheduled_keeps_its_slot() -> None:
    requests = Requests(2)
    both = [Scheduled("a", 2, 0, 2), Scheduled("b", 2, 0, 2)]
    requests.arrange(both)
    requests.complete(both)
    assert requests.arrange([Scheduled("b", 1, 2, 3)]).slots == [1]
    assert requests.arrange([Scheduled("a", 1, 2, 3)]).slots == [0]
    assert requests.leave(["a", "unknown"]) == [0]
    assert len(requests) == 1


def test_more_requests_than_slots_are_an_error() -> None:
    with pytest.raises(RuntimeError, match="more requests at a time than 1 slots"):
        Requests(1).arrange([Scheduled("a", 1, 0, 1), Scheduled("b", 1, 0, 1)])


@given(data=st.data(), slots=st.integers(1, 4))
def test_slots_are_never_shared_nor_lost(data: Any, slots: int) -> None:
    """Random requests enter, run, are preempted and leave, as a scheduler with that many places lets them."""
    requests, known, computed, number = Requests(slots), dict[str, int](), dict[str, int](), 0
    decoding = set[str]()
    for _ in range(12):
        gone = data.draw(st.lists(st.sampled_from(sorted(known)), unique=True)) if known else []
        requests.leave(gone)
        for name in gone:
            decoding.discard(name)
            if data.draw(st.booleans()):  # preempted: it comes back with all its tokens
                computed[name] = 0
            else:
                del known[name], computed[name]
        while len(known) < slots and data.draw(st.booleans()):
            number += 1
            known[f"r{number}"], computed[f"r{number}"] = data.draw(st.integers(1, 5)), 0
        scheduled = [
            Scheduled(
                name, data.draw(st.integers(1, known[name] - computed[name])), computed[name], known[name]
            )
            for name in known
            if data.draw(st.booleans())
        ]
        if not scheduled:
            continue
        arranged = requests.arrange(scheduled)
        owners = dict[int, str]()
        tokens = iter(arranged.slots)
        for one in scheduled:
            mine = {next(tokens) for _ in range(one.tokens)}
            assert len(mine) == 1
            slot = mine.pop()
            assert 0 <= slot < slots
            assert owners.setdefault(slot, one.request) == one.request
            assert (slot in arranged.completed) == (one.completes and one.request not in decoding)
        assert next(tokens, None) is None
        names = {one.request for one in scheduled}
        assert (arranged.prompt, arranged.decode) == (bool(names - decoding), bool(names & decoding))
        requests.complete(scheduled)
        decoding |= {one.request for one in scheduled if one.completes}
        for one in scheduled:
            computed[one.request] += one.tokens
            known[one.request] += one.completes
        assert len(requests) <= slots
    requests.leave(known)
    assert len(requests) == 0
