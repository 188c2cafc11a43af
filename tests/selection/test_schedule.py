"""Which steps are dense or sparse, and where phases end, against the stages written out one by one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regrow.core import Mode
from regrow.errors import UsageError
from regrow.selection.schedule import ALWAYS_DENSE, Schedule

STEPS = 60


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    """Draw T_init, T_e and T with 0 <= T_e <= T."""
    period = draw(st.integers(1, 12))
    return Schedule(draw(st.integers(0, 15)), draw(st.integers(0, period)), period)


def layout(schedule: Schedule, steps: int) -> tuple[list[Mode], set[int]]:
    """Return the modes of at least `steps` decode steps, from 1, and the last step of every dense stage."""
    modes = [Mode.OBSERVE] * schedule.init_steps
    ends = {schedule.init_steps}
    while len(modes) < steps:
        modes += [Mode.SPARSE] * (schedule.period - schedule.explore_steps)
        modes += [Mode.OBSERVE] * schedule.explore_steps
        if schedule.explore_steps:
            ends.add(len(modes))
    return modes, ends


def sparse_steps(schedule: Schedule, steps: int) -> int:
    """Return how many of the first `steps` decode steps are sparse, in closed form."""
    cycles, rest = divmod(max(steps - schedule.init_steps, 0), schedule.period)
    sparse = schedule.period - schedule.explore_steps
    return cycles * sparse + min(rest, sparse)


@given(schedules())
def test_modes_and_ends_are_those_of_the_stages(schedule: Schedule) -> None:
    modes, ends = layout(schedule, STEPS)
    if schedule.explore_steps == schedule.period:
        modes, ends = [Mode.DENSE] * STEPS, set()
    assert [schedule.mode(step) for step in range(1, STEPS + 1)] == modes[:STEPS]
    assert {step for step in range(STEPS + 1) if schedule.closes(step)} == {
        step for step in ends if step <= STEPS
    }


@given(schedules(), st.integers(0, 200))
def test_number_of_sparse_steps(schedule: Schedule, steps: int) -> None:
    modes = [schedule.mode(step) for step in range(1, steps + 1)]
    assert modes.count(Mode.SPARSE) == sparse_steps(schedule, steps)


@given(schedules())
def test_a_mask_is_always_chosen_before_the_first_sparse_step(schedule: Schedule) -> None:
    """The first step of every run of sparse steps follows a step that ends a phase."""
    for step in range(1, STEPS):
        starts = schedule.mode(step) is Mode.SPARSE and (
            step == 1 or schedule.mode(step - 1) is not Mode.SPARSE
        )
        if starts:
            assert schedule.closes(step - 1)


def test_the_defaults_of_the_paper() -> None:
    schedule = Schedule(64, 2, 20)
    observed = [step for step in range(1, 125) if schedule.mode(step) is Mode.OBSERVE]
    assert observed == [*range(1, 65), 83, 84, 103, 104, 123, 124]
    assert [step for step in range(125) if schedule.closes(step)] == [64, 84, 104, 124]


def test_pruning_is_known_beforehand() -> None:
    assert Schedule(64, 2, 20).prunes
    assert Schedule(0, 0, 1).prunes
    assert not Schedule(3, 4, 4).prunes
    assert not ALWAYS_DENSE.prunes


@pytest.mark.parametrize(
    ("init", "explore", "period", "message"),
    [
        (-1, 2, 20, "init_steps must be a whole number of at least 0, not -1"),
        (64, -2, 20, "explore_steps must be a whole number of at least 0, not -2"),
        (64, 0, 0, "period must be a whole number of at least 1, not 0"),
        (64, 2, -20, "period must be a whole number of at least 1, not -20"),
        (1.5, 2, 20, "init_steps must be a whole number of at least 0, not 1.5"),
        (64, True, 20, "explore_steps must be a whole number of at least 0, not True"),
        (64, 2, "20", "period must be a whole number of at least 1, not '20'"),
        (None, 2, 20, "init_steps must be a whole number of at least 0, not None"),
        (64, 3, 2, "a period of 2 steps is smaller than its 3 exploration steps"),
    ],
)
def test_refused(init: Any, explore: Any, period: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Schedule(init, explore, period)
