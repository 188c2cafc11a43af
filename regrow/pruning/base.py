"""What a session needs of a method at work."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence

from torch import Tensor

from regrow.core import Mode, Rows, Step
from regrow.pruning.meter import Meter
from regrow.selection.schedule import Schedule


class Pruner(ABC):
    """A method at work on one model, owned by a session: its state, and what the patched modules do.

    The patched modules (FFNs or linears, by the method's surface) are numbered in the order of `Blocks`.
    """

    schedule: Schedule

    @abstractmethod
    def start(self, slots: int, meter: Meter) -> None:
        """Forgets the batch before; `slots` memory rows, what decode steps keep goes to `meter`."""

    @abstractmethod
    def run(self, place: int, x: Tensor, step: Step | None) -> Tensor:
        """The patched module on x [..., in]; outside a step (None), as the model itself does."""

    @abstractmethod
    def scores(self, place: int, x: Tensor) -> Tensor:
        """[R, n] what its thresholds are compared with, at a patched module that is given the tokens x [T, in] of one sequence."""

    # What follows is nothing to a pruner that keeps no memory of samples.

    def join(self, joining: Tensor) -> None:  # noqa: B027
        """New samples take these slots [S] bool."""

    def begin(self, step: Step) -> None:  # noqa: B027
        """A forward pass begins. What the host knows of its cost is counted here: `run` may be recorded once and replayed."""

    def fold(self, rows: Rows) -> None:  # noqa: B027
        """The phase of `rows.ended` ends."""

    def select(self, rows: Rows) -> bool:  # noqa: ARG002
        """Chooses anew; whether it did."""
        return False

    @property
    def retained(self) -> list[Tensor]:
        """The retained neurons of each layer, in ascending order."""
        return []

    def dictate(self, scores: Sequence[Tensor]) -> None:  # noqa: B027
        """From the next batch on its n-th selection goes by scores[n] [L, F], the same for every sample, in place of the memory."""

    def key(self, mode: Mode) -> Hashable:
        """Of decode steps of this mode: those of the same key do the same with what lies at the same addresses. None: do not record it."""
        return mode

    @property
    def turnover(self) -> list[float]:
        """1 - |I_n and I_(n-1)| / |I_n| of each layer, summed over the selections."""
        return []

    @property
    def state_bytes(self) -> int:
        """Memory taken beside the model's own weights."""
        return 0
