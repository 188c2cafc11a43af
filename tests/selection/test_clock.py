"""Which steps are dense when samples join a batch that decodes already."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regrow.core import Mode
from regrow.errors import UsageError
from regrow.selection.clock import JOINS, Clock
from regrow.selection.schedule import ALWAYS_DENSE, Schedule

SCHEDULES = st.builds(
    lambda init, period, explore: Schedule(init, min(explore, period), period),
    st.integers(0, 6),
    st.integers(1, 6),
    st.integers(0, 3),
)


def modes(clock: Clock, steps: int) -> list[Mode]:
    return [clock.advanced(number).mode() for number in range(steps)]


@given(schedule=SCHEDULES, join=st.sampled_from(JOINS), steps=st.integers(1, 30))
def test_a_batch_that_nobody_joins_follows_the_schedule(schedule: Schedule, join: str, steps: int) -> None:
    clock = Clock(schedule, join).joined()  # all prompts are complete before the first step
    assert modes(clock, steps) == [schedule.mode(number + 1) for number in range(steps)]
    for number in range(steps):
        assert clock.advanced(number + 1).closes_since(number) == schedule.closes(number + 1)


@given(schedule=SCHEDULES, at=st.integers(1, 20))
def test_a_newcomer_gets_its_own_initial_steps_or_joins_the_schedule(schedule: Schedule, at: int) -> None:
    before = Clock(schedule, "dense").advanced(at)
    dense, refresh = before.joined(), Clock(schedule, "refresh").advanced(at).joined()
    scheduled = [schedule.mode(at + number + 1) for number in range(20)]
    assert modes(refresh, 20) == scheduled
    if not schedule.prunes:
        assert modes(dense, 20) == scheduled
        return
    assert modes(dense, schedule.init_steps) == [Mode.OBSERVE] * schedule.init_steps
    assert modes(dense, 20)[schedule.init_steps :] == scheduled[schedule.init_steps :]
    if schedule.init_steps:
        last = dense.advanced(schedule.init_steps)
        assert last.closes_since(last.step - 1)


def test_a_pass_of_several_steps_is_observed_if_one_of_them_is() -> None:
    clock = Clock(Schedule(0, 1, 4))
    assert [clock.mode(steps) for steps in (1, 3, 4)] == [Mode.SPARSE, Mode.SPARSE, Mode.OBSERVE]
    assert Clock(ALWAYS_DENSE, "dense").advanced(3).joined().mode(2) is Mode.DENSE


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown join 'later'; choose one of dense, refresh"):
        Clock(ALWAYS_DENSE, "later")
