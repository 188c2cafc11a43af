"""The decode loop for a fixed batch, with one token per row and step.

Every method runs through it, dense included.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import final

import torch
from torch import Tensor

from regrow.core import Pass
from regrow.decoding.batch import Batch
from regrow.decoding.flags import Flags
from regrow.decoding.late_hooks import LateHooks
from regrow.decoding.network import Network
from regrow.decoding.sampler import Sampler
from regrow.kernels import native
from regrow.session import Session


@final
@dataclass(frozen=True)
class Progress:
    """Progress of a batch, passed to `watch` whenever the host has read which rows have ended.

    Attributes:
        step: New tokens so far of a row that has not ended. Lossless rows differ: the most of any row.
        finished: [B], True for rows that generated their EOS or were stopped by a criterion.
        tokens: [B, step], the new tokens, padded after a row's end as transformers pads.
    """

    step: int
    finished: list[bool]
    tokens: Tensor


class Loop:
    """Runs one batch: the prompt, then decode steps.

    Decoding stops when every row has ended or the length limit is reached.
    """

    def __init__(
        self,
        session: Session,
        network: Network,
        batch: Batch,
        sampler: Sampler,
        *,
        chunk: int | None = None,
        watch: Callable[[Progress], None] | None = None,
        mark: Callable[[str], None] | None = None,
        every_step: bool = False,
        late: LateHooks | None = None,
        natively: bool = False,
    ) -> None:
        """Takes a batch and what runs it.

        `chunk`: prompt tokens per row that are fed at once; by default what suits the network.
        `watch(progress)` is called whenever the host has read which rows have ended. `mark(phase)` is called
        at the end of each phase: "prompt", "dense", "observe", "sparse" (decode steps), "refresh" (a new
        mask). `every_step`: the host checks after every step whether decoding is over, so no step runs after
        the last row's end. `late` looks for new hooks before each decode step. `natively`: decode steps use
        torch's own matmul instead of oneDNN's.
        """
        self._session, self._network, self._batch, self._sampler = session, network, batch, sampler
        self._chunk = chunk or network.chunk or batch.prompt_length
        self._late, self._natively = late, natively
        self._watch, self._mark = watch, mark or _ignore
        self._slot, self._no_slot = batch.rows.clone(), torch.full_like(batch.rows, -1)
        self._position = batch.positions[:, -1:].clone()
        # On a CPU steps are synchronous, so their seconds are known.
        self._timed = batch.ids.device.type == "cpu"
        self._since = 0.0  # when the previous phase ended
        self._flags, self._every_step = Flags(batch.ids.device), every_step or sampler.has_callbacks

    def run(self) -> Tensor:
        """Returns the sequences [B, P + N], padded after each row's end.

        Counters and finish reasons are stored in the session.
        """
        counters, batch = self._session.counters, self._batch
        began = time.perf_counter()
        self._session.join(range(len(batch)))
        length = batch.prompt_length
        over = self._settle(*self._prompt(), length, "prompt")
        counters.prefill_seconds = time.perf_counter() - began
        if not over:
            self._decode()
        counters.decode_seconds = time.perf_counter() - began - counters.prefill_seconds
        counters.tokens, counters.finish_reasons = batch.lengths.tolist(), batch.finish_reasons()
        self._sampler.end()
        # If the host does not check every step, some steps ran after the last row's end.
        return batch.ids[:, : batch.prompt_length + max(counters.tokens)]

    def _decode(self) -> None:
        """Decodes until every row has ended, or has its last token."""
        length, over = self._batch.prompt_length, False
        while not over:
            length += 1
            over = self._settle(*self._step(length), length)

    def _prompt(self) -> tuple[Pass, Tensor]:
        """Runs the whole prompt, in chunks if it is long.

        Returns the last pass, and the logits [B, V] of the last position.
        """
        batch = self._batch
        slot = torch.where(batch.mask.bool(), batch.rows[:, None], -1)
        start = 0
        while True:
            stop = min(start + self._chunk, batch.prompt_length)
            planned = self._session.plan(
                slot[:, start:stop].flatten().contiguous(),
                batch.positions[:, start:stop],
                prompt=True,
                decode=False,
            )
            logits = self._forward(planned, stop)
            if stop == batch.prompt_length:
                return planned, logits
            self._session.commit(planned)
            start = stop

    def _step(self, length: int) -> tuple[Pass, Tensor]:
        """Runs one decode step, which feeds the token before column `length` of every row.

        Returns the pass and the logits [B, V].
        """
        if self._late is not None:
            self._late.look()
        torch.where(self._batch.ended, self._no_slot, self._batch.rows, out=self._slot)
        self._position += 1
        planned = self._session.plan(self._slot, self._position)
        with native(self._natively):
            return planned, self._forward(planned, length)

    def _forward(self, planned: Pass, length: int) -> Tensor:
        with self._session.running(planned) as key:
            logits = self._network.forward(planned, self._batch.fed(length), key=key)
        return logits.to(copy=True, dtype=torch.float32)

    def _settle(self, planned: Pass, logits: Tensor, length: int, phase: str | None = None) -> bool:
        """Chooses the next tokens and commits the pass that they come from.

        Returns True if they were the last tokens.
        """
        self._sampler.choose(self._batch, logits, length)
        over = self._look(length + 1 - self._batch.prompt_length)
        selected = self._session.commit(
            planned,
            completed=range(len(self._batch)) if planned.prompt else (),
            finished=self._batch.ended,
            last=over,
            counted=partial(self._phase_ended, phase or planned.mode.name.lower()),
        )
        if selected:
            self._phase_ended("refresh")
        return over

    def _phase_ended(self, phase: str) -> None:
        self._mark(phase)
        now = time.perf_counter()
        if self._timed and phase in ("sparse", "refresh") and self._session.counters.decode_steps:
            counters, seconds = self._session.counters, now - self._since
            if phase == "sparse":
                counters.sparse_seconds += seconds
            else:
                counters.refresh_seconds += seconds
        self._since = now

    def _look(self, generated: int) -> bool:
        """Returns True if decoding is over, as far as the host knows.

        On a GPU the answer may be that of the previous read, so that no step has to synchronise.
        """
        start = self._batch.prompt_length
        full = start + generated >= self._batch.capacity
        if not full and not self._every_step and not self._flags.due(generated):
            return False
        finished = self._flags.read(self._batch.ended, now=full or self._every_step)
        if finished is None:
            return False
        if self._watch is not None:
            self._watch(Progress(generated, finished, self._batch.ids[:, start : start + generated]))
        return full or all(finished)


def _ignore(_: str) -> None:
    """Stands in for a callback that was not given."""
