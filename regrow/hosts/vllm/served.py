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
from regrow.selection.index_set import BUFFERS, TEMPORARIES
from regrow.session import Session

_LOG: Final = logging.getLogger("vllm.regrow")  # vLLM shows what is logged below its own name


@final
class Served:
    """Plans the passes that a server has scheduled, and commits them once their tokens are sampled."""

    def __init__(self, settings: ServeSettings, blocks: Blocks, slots: int) -> None:
        """`slots` is the number of requests that may run at a time.

        Raises UsageError if the scores of that many requests take more memory than the settings allow.
        """
        self.session = Session(settings.method, blocks, join=settings.join)
        at_once, self.later_bytes = _score_bytes(blocks, slots) if self.places else (0, 0)
        _check_memory(settings, slots, at_once + self.later_bytes)
        self.session.start(slots)
        self._requests = Requests(slots)
        self._under_way: tuple[Pass, Arranged, Sequence[Scheduled]] | None = None

    def remaining(self, available: int) -> int:
        """Returns how many of the `available` bytes remain beside what Regrow allocates while it serves.

        Raises UsageError if none is left.
        """
        if self.later_bytes >= available:
            raise UsageError(
                f"Regrow takes {_gib(self.later_bytes)} for scores while it serves, and {_gib(available)} "
                "are left for them and the KV cache; raise --gpu-memory-utilization, or lower --max-num-seqs"
            )
        return available - self.later_bytes

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


def _score_bytes(blocks: Blocks, slots: int) -> tuple[int, int]:
    """Returns the bytes of scores that are allocated at the start, and those that follow while serving.

    The latter are the activations z of an observed pass, and temporaries.
    """
    gate = blocks.ffns[0].weights.gate
    entries = slots * len(blocks.ffns) * len(gate)
    each = torch.empty(0, dtype=score_dtype(gate)).element_size()
    return entries * BUFFERS * each, entries * (TEMPORARIES * each + gate.element_size())


def _check_memory(settings: ServeSettings, slots: int, size: int) -> None:
    """Logs the bytes of the scores. Raises UsageError if they are more than the settings allow."""
    if size > settings.memory_bytes:
        fits = slots * settings.memory_bytes // size
        instead = (
            f"start vLLM with --max-num-seqs {fits}, or raise memory_gib" if fits else "raise memory_gib"
        )
        raise UsageError(
            f"the scores of {slots} requests take {_gib(size)}, and memory_gib is "
            f"{settings.memory_gib:g}; {instead}"
        )
    _LOG.info("the scores of %d requests take at most %s", slots, _gib(size))


def _gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB"
