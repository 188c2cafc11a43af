"""Decides which decode steps observe and which prune.

A schedule is a pure value; the session counts the steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import final

from regrow.core import Mode
from regrow.errors import UsageError


@final
@dataclass(frozen=True)
class Schedule:
    """Dense initial steps, followed by cycles of sparse and then dense steps (paper, section 3.3).

    T_init = `init_steps` dense steps come first. Every cycle has T_p = `period` - `explore_steps` sparse
    steps and then T_e = `explore_steps` dense steps. Decode steps are numbered from 1 and shared by the
    batch; step 0 is the prompt. Raises UsageError if a value is out of range.
    """

    init_steps: int
    explore_steps: int
    period: int

    def __post_init__(self) -> None:
        for name, value, least in (
            ("init_steps", self.init_steps, 0),
            ("explore_steps", self.explore_steps, 0),
            ("period", self.period, 1),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise UsageError(f"{name} must be a whole number of at least {least}, not {value!r}")
        if self.explore_steps > self.period:
            raise UsageError(
                f"a period of {self.period} steps is smaller than its {self.explore_steps} exploration "
                "steps; raise period or lower explore_steps"
            )

    @property
    def prunes(self) -> bool:
        """True if the schedule has sparse steps."""
        return self.explore_steps < self.period

    def mode(self, step: int) -> Mode:
        """Returns what the FFNs do in decode step number `step`."""
        if not self.prunes:
            return Mode.DENSE
        if step <= self.init_steps:
            return Mode.OBSERVE
        return Mode.SPARSE if self._place(step) <= self.period - self.explore_steps else Mode.OBSERVE

    def closes(self, step: int) -> bool:
        """Returns True if a phase of the batch ends with this decode step.

        The scores of the phase then enter the memory, and a new mask is selected if a sparse step follows.
        """
        if not self.prunes or step < self.init_steps:
            return False
        return step == self.init_steps or (self.explore_steps > 0 and self._place(step) == self.period)

    def _place(self, step: int) -> int:
        """Returns the position of a step in its cycle, counted from 1."""
        return (step - self.init_steps - 1) % self.period + 1


ALWAYS_DENSE = Schedule(init_steps=0, explore_steps=1, period=1)
ALWAYS_SPARSE = Schedule(init_steps=0, explore_steps=0, period=1)  # in every decode step


def unless_zero(sparsity: Decimal, schedule: Schedule) -> Schedule:
    """Returns `schedule`, or ALWAYS_DENSE if the sparsity is zero."""
    return schedule if sparsity else ALWAYS_DENSE
