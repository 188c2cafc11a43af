"""The one mutable object: it owns the clock, the method at work and the counters."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import final

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from regrow.core import FFN_SITES, Blocks, Mode, Pass, Role, Rows, Site, Surface
from regrow.counters import Counters, SiteCount
from regrow.method.base import Method
from regrow.pruning.meter import Meter
from regrow.report import Report


@final
class Session:
    """One method on one model.

    A host calls `start` for a batch and `join` for each sample. It then plans every forward pass (`plan`), runs the model within
    `running`, where the patched modules call `run`, and commits the tokens that stand (`commit`). A pass that is never committed leaves
    no trace.
    """

    def __init__(
        self,
        method: Method,
        blocks: Blocks,
        calibration: Mapping[str, Tensor] | None = None,
        *,
        record_masks: bool = False,
    ) -> None:
        """With `record_masks`, `masks` lists every selection."""
        self.method, self.counters = method, Counters()
        self.masks: list[
            tuple[int, Tensor]
        ] = []  # (decode step, index [L, k]; with thresholds filled up with -1)
        self._record = record_masks
        self._under_way = (
            threading.local()
        )  # `now`: the pass that this thread runs; other threads see the plain model
        self.bind(blocks, calibration)

    def bind(self, blocks: Blocks, calibration: Mapping[str, Tensor] | None = None) -> None:
        """Takes up these weights: everything derived from others is forgotten."""
        weight = blocks.ffns[0].weights.gate
        self._blocks = replace(
            blocks, ffns=(), linears=()
        )  # only what is counted: the pruner alone holds weights, if it needs any
        self._device, self._element = weight.device, weight.element_size()
        self.pruner = self.method.pruner(blocks, calibration or {})
        self.schedule = self.pruner.schedule
        self._clock = 0
        self._last: Pass | None = None  # the pass that ran last
        self._meter = Meter(len(blocks.sizes[Site.DOWN]), self._device)
        self._slots: dict[
            int, Tensor
        ] = {}  # of decode passes of so many tokens, at addresses that never change

    # The batch

    def start(self, slots: int) -> None:
        """Forgets the batch before; `slots` is the number of samples that can run at once."""
        self.counters, self.masks = Counters(), []
        self._meter.reset()
        self._last, self._clock = None, 0
        self._occupied = torch.zeros(slots, dtype=torch.bool, device=self._device)
        self._filling = torch.zeros_like(self._occupied)  # still in their prompt
        self.pruner.start(slots, self._meter)

    def join(self, slots: Sequence[int]) -> None:
        """New samples take these slots; they are in their prompt until `commit` is told otherwise. The clock goes on."""
        joining = self._mask(slots)
        self._occupied |= joining
        self._filling |= joining
        self.pruner.memory.join(joining)

    def leave(self, slots: Sequence[int]) -> None:
        """These samples no longer count from the next selection on."""
        leaving = self._mask(slots)
        self._occupied &= ~leaving
        self._filling &= ~leaving

    # One forward pass: plan, run, commit

    def plan(
        self,
        slot: Tensor,
        position: Tensor,
        *,
        prompt: bool = False,
        decode: bool = True,
        role: Role = Role.SCHEDULED,
    ) -> Pass:
        """What the next forward pass is; it counts nothing yet.

        `slot` [T] int64 is the memory row of each token, -1 where a token never counts (padding, ended rows); `position` [B, w] its place
        in its row's own text, T = B w. `prompt`: the pass holds prompt tokens, so that it is exact for every row; `decode`: it holds
        decode rows, so that the clock moves when it is committed. `role`: a draft runs with retained neurons as soon as there are any, a
        verification densely, whatever the schedule says.
        """
        return Pass(self._mode(position.shape[1], prompt, decode, role), slot, position, prompt, decode, role)

    @contextmanager
    def running(self, planned: Pass) -> Iterator[Hashable]:
        """Within it, the patched modules run the pass, in this thread alone. Gives its graph key: decode passes of equal keys and shapes
        run the same kernels on the same buffers, so that one CUDA graph serves them all; None means: do not capture."""
        now = planned if planned.prompt else replace(planned, slot=self._fixed(planned.slot))
        self.pruner.prepare(now)
        self._last, self._under_way.now = planned, now
        try:
            yield self.pruner.key(now) if planned.decode and not planned.prompt else None
        finally:
            self._under_way.now = None

    def run(self, place: int, x: Tensor) -> Tensor:
        """A patched module on x [..., in]; outside a pass, and in another thread, as the model itself does."""
        return self.pruner.run(place, x, getattr(self._under_way, "now", None))

    def commit(
        self,
        done: Pass,
        kept: Tensor | None = None,
        *,
        steps: int | None = None,
        completed: Sequence[int] = (),
        finished: Tensor | None = None,
        last: bool = False,
        counted: Callable[[], None] | None = None,
    ) -> bool:
        """The pass stands, for the first `kept` [S] tokens of each slot (None: all): clock, scores and counters move; then what ended is
        folded, and neurons are selected anew where the schedule says so, or after a verification. Whether a selection was made.

        `steps`: by how many decode steps the clock moves; without it the most that a slot keeps, for which the host waits. `completed`:
        slots whose prompt the pass completed; `finished` [S] bool: slots that have generated their EOS by now; `last`: no pass follows, so
        that nothing is folded; `counted` is called when the pass is counted, before anything is folded. Raises ValueError for a pass that
        did not run, or after which another one ran.
        """
        if done is not self._last:
            raise ValueError("only the pass that ran last can be committed, and only once")
        self._last = None
        self.pruner.commit(done, done.slot if kept is None else _standing(done, kept))
        before = self._clock
        if done.decode:
            self._clock += steps if steps is not None else done.width if kept is None else int(kept.max())
            self.counters.decode_steps += 1
            self.counters.sparse_steps += done.mode is Mode.SPARSE
        if completed:
            self._filling &= ~self._mask(completed)
        if counted is not None:
            counted()
        ended = None if last else self._ended(done, range(before + 1, self._clock + 1), completed)
        if ended is None:
            return False
        rows = Rows(
            ended=ended,
            occupied=self._occupied,
            finished=torch.zeros_like(ended) if finished is None else finished,
        )
        self.pruner.memory.fold(rows)
        follows = done.role is Role.VERIFY or self.schedule.mode(self._clock + 1) is Mode.SPARSE
        return follows and self._select(rows)

    # What it did

    def report(self) -> Report:
        sites = self._sites()
        kept, dense = (
            sum(sum(getattr(sites[site.value], name)) for site in self._own()) for name in ("kept", "dense")
        )
        counters = replace(
            self.counters,
            weights_kept=kept,
            weights_dense=dense,
            sites=sites,
            bytes_read=self._bytes(sites, tuple(Site)),
            ffn_bytes_read=self._bytes(sites, FFN_SITES),
            refresh_bytes=self._meter.refresh_bytes,
            replaced=max(0, self.counters.updates - 1),
            left=self.pruner.memory.turnover,
            state_bytes=self.counters.state_bytes + self.pruner.state_bytes,
        )
        return Report(self.method.describe(), float(self.method.target), counters)

    def _mode(self, width: int, prompt: bool, decode: bool, role: Role) -> Mode:
        if role is Role.DRAFT:
            return Mode.SPARSE if self.pruner.ready else Mode.DENSE
        if prompt or role is Role.VERIFY:
            return Mode.OBSERVE if self.schedule.prunes else Mode.DENSE
        modes = (
            {self.schedule.mode(self._clock + step) for step in range(1, width + 1)}
            if decode
            else {Mode.DENSE}
        )
        return Mode.OBSERVE if Mode.OBSERVE in modes else modes.pop()

    def _ended(self, done: Pass, steps: range, completed: Sequence[int]) -> Tensor | None:
        """[S] bool: the slots whose phase ends with this pass; None where that is none."""
        if (self.schedule.prunes and done.role is Role.VERIFY) or (
            done.decode and any(map(self.schedule.closes, steps))
        ):
            return self._occupied & ~self._filling
        return self._mask(completed) if completed else None

    def _select(self, rows: Rows) -> bool:
        retained = self.pruner.memory.select(rows)
        if retained is None:
            return False
        self.counters.updates += 1
        if self._record:
            self.masks.append((self._clock, pad_sequence(list(retained), batch_first=True, padding_value=-1)))
        return True

    def _sites(self) -> dict[str, SiteCount]:
        """Weight elements over all decode steps, of every layer: what modules that are not patched have comes from the model."""
        steps, metered, blocks = self.counters.decode_steps, self._meter.kept(), self._blocks
        patched = self._own() if self.pruner.places else ()
        found = {}
        for site, sizes in blocks.sizes.items():
            own = set(blocks.layers) if site in patched else set()
            filled = blocks.filled[site]
            kept = [
                metered[site][layer] if layer in own else filled[layer] * steps for layer in range(len(sizes))
            ]
            found[site.value] = SiteCount(kept, [size * steps for size in sizes])
        return found

    def _own(self) -> tuple[Site, ...]:
        return tuple(site for site in self.method.sites if site in self._blocks.sizes)

    def _bytes(self, sites: Mapping[str, SiteCount], of: Sequence[Site]) -> int:
        """Weights that a decode step has to read. Zeros in a weight are read like the rest: the dense kernels that run them do."""
        counts = [sites[site.value] for site in of if site.value in sites]
        return self._element * sum(
            sum(count.dense if self.method.surface is Surface.WEIGHTS else count.kept) for count in counts
        )

    def _fixed(self, slot: Tensor) -> Tensor:
        """The same at an address that never changes, so that a captured step sees it."""
        if len(slot) not in self._slots:
            with torch.inference_mode(mode=False):  # it outlives the caller's inference mode
                self._slots[len(slot)] = torch.empty_like(slot)
        return self._slots[len(slot)].copy_(slot)

    def _mask(self, slots: Sequence[int]) -> Tensor:
        mask = torch.zeros_like(self._occupied)
        mask[list(slots)] = True
        return mask


def _standing(done: Pass, kept: Tensor) -> Tensor:
    """The pass's slots [T], -1 where a token is not among the first `kept` [S] of its row."""
    number = torch.arange(done.width, device=kept.device).repeat(len(done.position))
    return torch.where((done.slot >= 0) & (number < kept[done.slot.clamp(min=0)]), done.slot, -1)
