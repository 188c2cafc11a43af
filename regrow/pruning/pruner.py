"""The interface between a session and a running method: `Pruner` and `SampleMemory`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from typing import final

from torch import Tensor

from regrow.core import Mode, Pass, Rows
from regrow.pruning.meter import Meter
from regrow.selection.schedule import Schedule


class SampleMemory(ABC):
    """State that a pruner keeps for each sample, and the selection of neurons from it."""

    @abstractmethod
    def join(self, joining: Tensor) -> None:
        """Assigns the slots `joining` `[S]` bool to new samples."""

    @abstractmethod
    def fold(self, rows: Rows) -> None:
        """Ends the phase of the slots `rows.ended`: their scores enter the memory."""

    @abstractmethod
    def select(self, rows: Rows) -> Sequence[Tensor] | None:
        """Selects neurons and returns those of each layer in ascending order, or None if no row counts."""

    @abstractmethod
    def dictate(self, scores: Sequence[Tensor]) -> None:
        """Replaces the observed scores from the next batch on.

        Selection number n of a batch then uses `scores[n]` `[L, F]`.
        """

    @property
    @abstractmethod
    def remembered(self) -> Tensor | None:
        """A copy of the scores in the memory of each sample `[L, S, F]`; NaN for samples that have none.

        None if nothing is remembered of the samples: masks then depend on other things, such as weights.
        """

    @property
    @abstractmethod
    def index(self) -> Tensor | None:
        """The kept neurons of each layer, [L, k] int64 in ascending order, at a fixed address.

        None if the number of kept neurons varies, or if neurons are not kept from step to step.
        """

    @property
    @abstractmethod
    def turnover(self) -> list[float]:
        """Sum over the selections of 1 - |I_n and I_(n-1)| / |I_n|, for each layer."""


@final
class NoMemory(SampleMemory):
    """The empty memory of pruners that decide by the current forward pass alone."""

    remembered = None
    index = None
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
    """A method that runs on one model: its state, and what the patched modules compute. A session owns it.

    The patched modules are FFNs or linear layers, depending on the method's surface. `place` is the number of
    a patched module, in the order of `Blocks`.
    """

    schedule: Schedule
    places: int  # number of patched modules

    @property
    def memory(self) -> SampleMemory:
        """State of the samples; empty unless a subclass overrides it."""
        return NO_MEMORY

    @abstractmethod
    def start(self, slots: int, meter: Meter) -> None:
        """Starts a batch with `slots` memory rows and discards the state of the previous batch.

        The weights that decode steps use are counted in `meter`.
        """

    @abstractmethod
    def prepare(self, planned: Pass) -> None:
        """Prepares for a forward pass: discards what an earlier pass left uncommitted."""

    @abstractmethod
    def run(self, place: int, x: Tensor, now: Pass | None) -> Tensor:
        """Runs a patched module on x `[..., in]` within the forward pass `now`.

        Outside of a pass `now` is None, and the module computes the same as in the unpruned model.
        """

    @abstractmethod
    def commit(self, done: Pass, slot: Tensor) -> None:
        """Commits a forward pass that has run, for the tokens whose `slot` `[T]` is not -1.

        The costs that the host knows are counted here and not in `run`, because `run` may be captured once
        and then replayed.
        """

    @abstractmethod
    def scores(self, place: int, x: Tensor) -> Tensor:
        """Returns the scores `[T, n]` that the thresholds of a patched module are compared with.

        x `[T, in]` holds the tokens of one sequence; n is the number of its inputs, or of its neurons.
        """

    @abstractmethod
    def key(self, planned: Pass) -> Hashable:
        """Returns the graph key of a decode pass.

        Passes with equal keys and shapes run the same kernels on the same buffers. None means: do not
        capture.
        """

    @property
    @abstractmethod
    def ready(self) -> bool:
        """True if the pruner can prune now. A mask, for example, needs a selection first."""

    @property
    @abstractmethod
    def sources(self) -> Sequence[Tensor]:
        """Weights of which the pruner keeps copies or norms; it is stale if their values change."""

    @property
    @abstractmethod
    def state_bytes(self) -> int:
        """Bytes of memory that the pruner uses beside the model's own weights."""


@final
class DensePruner(Pruner):
    """The pruner of a method that does nothing while decoding. No module is patched."""

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
