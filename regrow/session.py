"""The session: the one mutable object, which owns the clock, the state of the method and the counters."""

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
from regrow.selection.clock import Clock


@final
class Session:
    """Runs one method on one model: plans forward passes, counts them, and selects new masks.

    A session lasts as long as the model is patched. A host (the code that drives the model) makes these calls
    for each batch:

    1. `start` forgets the previous batch and sets the number of slots. A slot is one row of the memory in
       which a method keeps what each sample has needed so far.
    2. `join` assigns new samples to slots. Samples may also join later, and `leave` removes them.
    3. For each forward pass:
       - `plan` returns a `Pass`. The schedule decides whether it is dense, observed or sparse, unless the
         pass is a draft or a verification.
       - `with running(planned):` the host runs the model, and each patched module calls `run`.
       - `commit` counts the tokens that are kept. It updates scores, clock and counters. If a phase ends with
         the pass, `commit` folds the scores into the memory, and selects a new mask if one is due.
    4. `report` returns the counters of the batch.

    A phase is a stretch of tokens over which scores are summed: a prompt, or the dense decode steps before a
    selection. The clock counts the decode steps of the batch. A pass with several tokens a row advances it by
    several steps, but adds one to the counter of decode steps, because it reads the weights once. Only
    `commit` changes state that a later pass depends on: a pass that is never committed has no effect.
    """

    def __init__(
        self,
        method: Method,
        blocks: Blocks,
        calibration: Mapping[str, Tensor] | None = None,
        *,
        record_masks: bool = False,
        join: str = "refresh",
    ) -> None:
        """Binds the session to `blocks` (see `bind`). With `record_masks`, `masks` lists every selection.

        `join` is what happens if a sample joins a batch that decodes already; see `JOINS`.
        """
        self.method, self.counters, self._join = method, Counters(), join
        # (decode step, index [L, k]). With thresholds, layers differ in k, and rows are padded with -1.
        self.masks: list[tuple[int, Tensor]] = []
        self._record_masks = record_masks
        # Its attribute `now` is the pass that this thread runs. Other threads see the model without pruning.
        self._under_way = threading.local()
        self.bind(blocks, calibration)

    def bind(self, blocks: Blocks, calibration: Mapping[str, Tensor] | None = None) -> None:
        """Takes up the weights of `blocks` and a calibration; drops everything derived from earlier ones."""
        weight = blocks.ffns[0].weights.gate
        # The session needs only the sizes. Weights are referenced by the pruner alone, if it needs any.
        self._blocks = replace(blocks, ffns=(), linears=())
        self._device, self._element_bytes = weight.device, weight.element_size()
        self.pruner = self.method.pruner(blocks, calibration or {})
        self.schedule = self.pruner.schedule
        self._clock = Clock(self.schedule, self._join)
        self._last: Pass | None = None  # the pass that ran last, until it is committed
        self._meter = Meter(len(blocks.sizes[Site.DOWN]), self._device)
        # Number of tokens of a decode pass -> buffer for its `slot`, whose address never changes.
        self._slots: dict[int, Tensor] = {}

    # The batch

    @property
    def layers(self) -> Sequence[int]:
        """The layers that the method prunes."""
        return self._blocks.layers

    def start(self, slots: int) -> None:
        """Starts a batch of at most `slots` samples at a time, and forgets the previous batch."""
        self.counters, self.masks = Counters(), []
        self._meter.reset()
        self._last, self._clock = None, Clock(self.schedule, self._join)
        self._occupied = torch.zeros(slots, dtype=torch.bool, device=self._device)
        self._filling = torch.zeros_like(self._occupied)  # slots whose prompt is not complete yet
        self.pruner.start(slots, self._meter)

    def join(self, slots: Sequence[int]) -> None:
        """Assigns new samples to these slots. The clock is not reset.

        The prompts of these samples are incomplete until `commit` lists the slots in `completed`.
        """
        joining = self._mask(slots)
        self._occupied |= joining
        self._filling |= joining
        self.pruner.memory.join(joining)

    def leave(self, slots: Sequence[int]) -> None:
        """Removes the samples in these slots: they do not count in later selections."""
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
        """Returns the next forward pass, of B rows with w tokens each (T = B w). Nothing is counted yet.

        - `slot` [T] int64: the slot of each token, or -1 for a token that never counts (padding, ended rows).
        - `position` [B, w] int64: the position of each token in its own row's text.
        - `prompt`: the pass holds prompt tokens. It is then exact for every row.
        - `decode`: the pass holds decode rows. Committing it then advances the clock.
        - `role`: see `Role`. Other roles than SCHEDULED do not ask the schedule.
        """
        return Pass(self._mode(position.shape[1], prompt, decode, role), slot, position, prompt, decode, role)

    @contextmanager
    def running(self, planned: Pass) -> Iterator[Hashable]:
        """Makes `planned` the pass that the patched modules run, in this thread alone. Yields its graph key.

        Decode passes with equal keys and shapes run the same kernels on the same buffers, so one CUDA graph
        serves them all. None means: do not capture.
        """
        now = planned if planned.prompt else replace(planned, slot=self._at_fixed_address(planned.slot))
        self.pruner.prepare(now)
        self._last, self._under_way.now = planned, now
        try:
            yield self.pruner.key(now) if planned.decode and not planned.prompt else None
        finally:
            self._under_way.now = None

    def run(self, place: int, x: Tensor) -> Tensor:
        """Returns the output of patched module number `place` for x [..., in].

        Outside `running`, and in other threads, this is the model's own output.
        """
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
        """Counts a pass that has run. Returns True if a new mask was selected.

        First, scores, clock and counters are updated. If a phase ends with this pass, its scores are then
        folded into the memory. After that, a new mask is selected, provided that the next step is sparse or
        the pass was a verification.

        - `kept` [S]: how many tokens of each slot are kept, from its first token in the pass. None keeps all.
        - `steps`: how many decode steps the clock advances. The default is the width of the pass or, with
          `kept`, the largest entry of `kept`. Reading that entry synchronises with the device.
        - `completed`: slots whose prompt is complete with this pass.
        - `finished` [S] bool: slots that have generated their EOS by now.
        - `last`: no pass follows, so nothing is folded or selected.
        - `counted`: callback that is called after the pass is counted and before anything is folded.

        Raises ValueError unless `done` is the pass that ran last and is not committed yet.
        """
        if done is not self._last:
            raise ValueError("only the pass that ran last can be committed, and only once")
        self._last = None
        self.pruner.commit(done, done.slot if kept is None else done.slots_of(kept))
        before = self._clock.step
        if done.decode:
            self._clock = self._clock.advanced(
                steps if steps is not None else done.width if kept is None else int(kept.max())
            )
            self.counters.decode_steps += 1
            self.counters.sparse_steps += done.mode is Mode.SPARSE
        if completed:
            self._filling &= ~self._mask(completed)
        if counted is not None:
            counted()
        ended = None if last else self._ended(done, before, completed)
        if completed:
            self._clock = self._clock.joined()
        if ended is None:
            return False
        rows = Rows(
            ended=ended,
            occupied=self._occupied,
            finished=torch.zeros_like(ended) if finished is None else finished,
        )
        self.pruner.memory.fold(rows)
        follows = done.role is Role.VERIFY or self._clock.mode() is Mode.SPARSE
        return follows and self._select(rows)

    # The report

    def report(self) -> Report:
        """Returns the counters of the batch so far. Reading them may synchronise with the device."""
        sites = self._sites()
        kept, dense = (
            sum(sum(getattr(sites[site.value], name)) for site in self._pruned_sites())
            for name in ("kept", "dense")
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
        if role is Role.DENSE:
            return Mode.DENSE
        if role is Role.DRAFT:
            return Mode.SPARSE if self.pruner.ready else Mode.DENSE
        if prompt or role is Role.VERIFY:
            return Mode.OBSERVE if self.schedule.prunes else Mode.DENSE
        if not decode:
            return Mode.DENSE
        return self._clock.mode(width)

    def _ended(self, done: Pass, before: int, completed: Sequence[int]) -> Tensor | None:
        """Returns the slots whose phase ends with this pass, [S] bool, or None if no phase ends.

        `before` is the number of decode steps before it.
        """
        if done.role is Role.DENSE:
            return None
        if (self.schedule.prunes and done.role is Role.VERIFY) or (
            done.decode and self._clock.closes_since(before)
        ):
            return self._occupied & ~self._filling
        return self._mask(completed) if completed else None

    def _select(self, rows: Rows) -> bool:
        retained = self.pruner.memory.select(rows)
        if retained is None:
            return False
        self.counters.updates += 1
        if self._record_masks:
            self.masks.append(
                (self._clock.step, pad_sequence(list(retained), batch_first=True, padding_value=-1))
            )
        return True

    def _sites(self) -> dict[str, SiteCount]:
        """Returns the weight elements used by decode steps, by site and layer.

        The meter counts those of patched modules. A module that is not patched uses all weights in every
        step, except those that a weight-pruning method has zeroed.
        """
        steps, metered, blocks = self.counters.decode_steps, self._meter.kept(), self._blocks
        patched = self._pruned_sites() if self.pruner.places else ()
        found = {}
        for site, sizes in blocks.sizes.items():
            own = set(blocks.layers) if site in patched else set()
            filled = blocks.filled[site]
            kept = [
                metered[site][layer] if layer in own else filled[layer] * steps for layer in range(len(sizes))
            ]
            found[site.value] = SiteCount(kept, [size * steps for size in sizes])
        return found

    def _pruned_sites(self) -> tuple[Site, ...]:
        return tuple(site for site in self.method.sites if site in self._blocks.sizes)

    def _bytes(self, counts: Mapping[str, SiteCount], sites: Sequence[Site]) -> int:
        """Returns the bytes of weights at these sites that decode steps had to read.

        Weights that a weight-pruning method has zeroed are read as well, because the matmuls stay dense.
        """
        chosen = [counts[site.value] for site in sites if site.value in counts]
        return self._element_bytes * sum(
            sum(count.dense if self.method.surface is Surface.WEIGHTS else count.kept) for count in chosen
        )

    def _at_fixed_address(self, slot: Tensor) -> Tensor:
        """Copies `slot` to a buffer whose address never changes, where a captured step reads it."""
        if len(slot) not in self._slots:
            with torch.inference_mode(mode=False):  # the buffer outlives the caller's inference mode
                self._slots[len(slot)] = torch.empty_like(slot)
        return self._slots[len(slot)].copy_(slot)

    def _mask(self, slots: Sequence[int]) -> Tensor:
        mask = torch.zeros_like(self._occupied)
        mask[list(slots)] = True
        return mask
