"""What a session needs of a method at work."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from typing import final

from torch import Tensor

from regrow.core import Mode, Pass, Rows
from regrow.pruning.meter import Meter
from regrow.selection.schedule import Schedule


class SampleMemory(ABC):
    """What a pruner remembers of the samples of a batch, and the neurons that it retains by it."""

    @abstractmethod
    def join(self, joining: Tensor) -> None:
        """New samples take these slots [S] bool."""

    @abstractmethod
    def fold(self, rows: Rows) -> None:
        """The phase of `rows.ended` ends: scores enter the memory."""

    @abstractmethod
    def select(self, rows: Rows) -> Sequence[Tensor] | None:
        """Chooses anew; the retained neurons of each layer in ascending order, or None where no row counts."""

    @abstractmethod
    def dictate(self, scores: Sequence[Tensor]) -> None:
        """From the next batch on, selection number n of a batch goes by scores[n] [L, F] in the place of what was observed."""

    @property
    @abstractmethod
    def turnover(self) -> list[float]:
        """1 - |I_n and I_(n-1)| / |I_n| of each layer, summed over the selections."""


@final
class NoMemory(SampleMemory):
    """The memory of pruners that decide by the current pass alone."""

    turnover: list[float] = []  # noqa: RUF012 - never written to

    def join(self, joining: Tensor) -> None:
        pass

    def fold(self, rows: Rows) -> None:
        pass

    def select(self, rows: Rows) -> None:
        return None

    def dictate(self, scores: Sequence[Tensor]) -> None:
        pass


NO_MEMORY = NoMemory()


class Pruner(ABC):
    """A method at work on one model, owned by a session: its state, and what the patched modules do.

    The patched modules (FFNs or linear layers, by the method's surface) are numbered in the order of `Blocks`.
    """

    schedule: Schedule
    places: int  # how many modules it stands in for

    @property
    def memory(self) -> SampleMemory:
        """What it remembers of samples."""
        return NO_MEMORY

    @abstractmethod
    def start(self, slots: int, meter: Meter) -> None:
        """Forgets the batch before; `slots` memory rows, what decode steps keep goes to `meter`."""

    @abstractmethod
    def prepare(self, planned: Pass) -> None:
        """A pass is about to run: what an earlier pass left uncommitted is dropped."""

    @abstractmethod
    def run(self, place: int, x: Tensor, now: Pass | None) -> Tensor:
        """The patched module on x [..., in] in the pass under way; outside a pass (None), as the model itself does."""

    @abstractmethod
    def commit(self, done: Pass, slot: Tensor) -> None:
        """The pass has run and stands, for the tokens whose `slot` [T] is not -1. What the host knows of its cost is counted here:
        `run` may be captured once and replayed."""

    @abstractmethod
    def scores(self, place: int, x: Tensor) -> Tensor:
        """[R, n] what its thresholds are compared with, at a patched module that is given the tokens x [T, in] of one sequence."""

    @abstractmethod
    def key(self, planned: Pass) -> Hashable:
        """Graph key of a decode pass: passes of equal keys and shapes run the same kernels on the same buffers. None: do not capture."""

    @property
    @abstractmethod
    def ready(self) -> bool:
        """Whether it can prune now: a mask needs a selection first."""

    @property
    @abstractmethod
    def sources(self) -> Sequence[Tensor]:
        """The weights that it keeps copies or norms of: a change of their values makes it stale."""

    @property
    @abstractmethod
    def state_bytes(self) -> int:
        """Memory taken beside the model's own weights."""


@final
class DensePruner(Pruner):
    """The pruner of a method that does nothing while decoding: no module is patched."""

    places = 0
    ready = False
    sources: Sequence[Tensor] = ()
    state_bytes = 0

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule

    def start(self, slots: int, meter: Meter) -> None:
        pass

    def prepare(self, planned: Pass) -> None:
        pass

    def run(self, place: int, x: Tensor, now: Pass | None) -> Tensor:
        raise AssertionError("nothing is patched for a method that does nothing")

    def commit(self, done: Pass, slot: Tensor) -> None:
        pass

    def scores(self, place: int, x: Tensor) -> Tensor:
        raise AssertionError("a method that does nothing has no thresholds")

    def key(self, planned: Pass) -> Hashable:
        return Mode.DENSE
