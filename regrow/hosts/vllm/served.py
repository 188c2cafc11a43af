"""A session for requests that come and go: one pass after the other is begun, run and ended."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Final, final

import torch
from torch import Tensor

from regrow.core import Blocks, Pass, score_dtype
from regrow.errors import UsageError
from regrow.hosts.vllm.requests import Arranged, Requests, Scheduled
from regrow.hosts.vllm.settings import GIB, ServeSettings
from regrow.session import Session

_LOG: Final = logging.getLogger(__name__)


@final
class Served:
    """Plans the passes that a server has scheduled, and commits them once their tokens are sampled."""

    def __init__(self, settings: ServeSettings, blocks: Blocks, slots: int) -> None:
        """`slots` is the number of requests that may run at a time.

        Raises UsageError if the scores of that many requests take more memory than the settings allow.
        """
        gate = blocks.ffns[0].weights.gate
        scores = torch.empty(0, dtype=score_dtype(gate)).element_size()
        # Sums of the open phase, those of a pass that is not committed, and the memory; then z.
        layers, neurons = len(blocks.ffns), len(gate)
        size = slots * layers * neurons * (3 * scores + gate.element_size())
        if size > settings.memory_bytes:
            fits = max(1, slots * settings.memory_bytes // size)
            raise UsageError(
                f"the scores of {slots} requests take {size / GIB:.1f} GiB, and memory_gib is "
                f"{settings.memory_gib:g}; start vLLM with --max-num-seqs {fits}, or raise memory_gib"
            )
        _LOG.info("the scores of %d requests take %.2f GiB", slots, size / GIB)
        self.session = Session(settings.method, blocks, join=settings.join)
        self.session.start(slots)
        self._requests = Requests(slots)
        self._under_way: tuple[Pass, Arranged, Sequence[Scheduled]] | None = None

    @property
    def places(self) -> int:
        """Number of FFNs that run through `runs`: all, or none for a method that does nothing."""
        return self.session.pruner.places

    def runs(self, place: int) -> Callable[[Tensor], Tensor]:
        """Returns what FFN number `place` computes from x [..., D]."""
        return partial(self.session.run, place)

    @property
    def running(self) -> int:
        """Number of requests that hold a slot."""
        return len(self._requests)

    def leave(self, requests: Iterable[str]) -> None:
        """Removes requests that have ended, or that have lost their keys and values."""
        self._left(self._requests.leave(requests))

    @contextmanager
    def passing(self, scheduled: Sequence[Scheduled], position: Tensor) -> Iterator[None]:
        """Runs a forward pass inside the context. `position` [T] are those of its tokens, in this order.

        A pass that was never ended leaves no trace.
        """
        arranged = self._requests.arrange(scheduled)
        self._left(arranged.left)
        if arranged.joined:
            self.session.join(arranged.joined)
        slot = torch.tensor(arranged.slots, dtype=torch.int64, device=position.device)
        planned = self.session.plan(slot, position[:, None], prompt=arranged.prompt, decode=arranged.decode)
        self._under_way = planned, arranged, scheduled
        with self.session.running(planned):
            yield

    def end(self) -> bool:
        """Commits the pass that has run. Returns True if a mask was selected."""
        if self._under_way is None:
            return False
        (planned, arranged, scheduled), self._under_way = self._under_way, None
        self._requests.complete(scheduled)
        return self.session.commit(planned, completed=arranged.completed)

    def _left(self, slots: Collection[int]) -> None:
        if slots:
            self.session.leave(list(slots))
