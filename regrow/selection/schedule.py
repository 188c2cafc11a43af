"""When to observe and when to prune: a pure value, the clock is the session's."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import final

from regrow.core import Mode
from regrow.errors import UsageError


@final
@dataclass(frozen=True)
class Schedule:
    """T_init dense steps, then cycles of T_p = period - explore_steps sparse steps and T_e = explore_steps dense ones (paper, section 3.3).

    Decode steps are numbered from 1 and shared by the batch; step 0 is the prompt.
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
                f"a period of {self.period} steps is smaller than its {self.explore_steps} exploration steps; "
                "raise period or lower explore_steps"
            )

    @property
    def prunes(self) -> bool:
        return self.explore_steps < self.period

    def mode(self, step: int) -> Mode:
        if not self.prunes:
            return Mode.DENSE
        if step <= self.init_steps:
            return Mode.OBSERVE
        return Mode.SPARSE if self._place(step) <= self.period - self.explore_steps else Mode.OBSERVE

    def closes(self, step: int) -> bool:
        """Whether a phase of the batch ends with this decode step: its scores are folded, and a new mask is chosen if pruning follows."""
        if not self.prunes or step < self.init_steps:
            return False
        return step == self.init_steps or (self.explore_steps > 0 and self._place(step) == self.period)

    def _place(self, step: int) -> int:
        """1-based place of a step in its cycle."""
        return (step - self.init_steps - 1) % self.period + 1


ALWAYS_DENSE = Schedule(init_steps=0, explore_steps=1, period=1)
ALWAYS_SPARSE = Schedule(init_steps=0, explore_steps=0, period=1)  # at every decode step


def unless_zero(sparsity: Decimal, schedule: Schedule) -> Schedule:
    """The schedule, but for a sparsity of zero: that is dense."""
    return schedule if sparsity else ALWAYS_DENSE
