"""Counts the decode steps of a batch, and says what the next ones do.

The schedule says when the whole batch explores. Samples that join later add to it, by one of two policies.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Self, final

from regrow.core import Mode
from regrow.errors import require_one_of
from regrow.selection.schedule import Schedule

# "dense": the steps of the batch are dense until the newcomer has had its own T_init. "refresh": a newcomer's
# prompt enters the mask at once, and it explores with the batch.
JOINS: Final = ("dense", "refresh")


@final
@dataclass(frozen=True)
class Clock:
    """The number of decode steps so far, and which of the next ones are dense.

    The schedule goes on while samples come and go, so no arrival restarts a period.
    """

    schedule: Schedule
    join: str = "refresh"
    step: int = 0
    dense_until: int = 0  # the last step that is dense for the sake of a newcomer

    def __post_init__(self) -> None:
        require_one_of(JOINS, join=self.join)

    def mode(self, steps: int = 1) -> Mode:
        """Returns what a pass of the next `steps` steps does. If one of them is observed, the pass is."""
        modes = {self._mode(self.step + number) for number in range(1, steps + 1)}
        return Mode.OBSERVE if Mode.OBSERVE in modes else modes.pop()

    def advanced(self, steps: int) -> Self:
        """Returns the clock after `steps` more steps."""
        return replace(self, step=self.step + steps)

    def joined(self) -> Self:
        """Returns the clock after the prompt of a sample has been completed."""
        if self.join == "refresh" or not self.schedule.prunes or not self.schedule.init_steps:
            return self
        return replace(self, dense_until=self.step + self.schedule.init_steps)

    def closes_since(self, before: int) -> bool:
        """Returns True if a phase of the batch ended with a step after number `before`."""
        return any(
            self.schedule.closes(step) or (step == self.dense_until and self.schedule.prunes)
            for step in range(before + 1, self.step + 1)
        )

    def _mode(self, step: int) -> Mode:
        scheduled = self.schedule.mode(step)
        return Mode.OBSERVE if step <= self.dense_until and self.schedule.prunes else scheduled
