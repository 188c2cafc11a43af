"""The one mutable object: it owns the clock, the method at work and the counters."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import final

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from regrow.core import FFN_SITES, Blocks, Mode, Rows, Site, Step, Surface
from regrow.counters import Counters, SiteCount
from regrow.method.base import Method
from regrow.pruning.base import Pruner
from regrow.pruning.meter import Meter
from regrow.report import Report
from regrow.selection.schedule import ALWAYS_DENSE


@final
class Session:
    """One method on one model. A host calls `start` for a batch, `join` for each sample, then for every forward pass `begin`, the model,
    `ran`, `end`; the patched modules call `run`."""

    def __init__(
        self, method: Method, blocks: Blocks, calibration: Mapping[str, Tensor] | None = None, *, record_masks: bool = False
    ) -> None:
        """With `record_masks`, `masks` lists every selection."""
        weight = blocks.ffns[0].weights.gate
        self.method, self.counters = method, Counters()
        self.masks: list[tuple[int, Tensor]] = []  # (decode step, index [L, k]; with thresholds filled up with -1)
        self._blocks, self._record = blocks, record_masks
        self._device, self._element = weight.device, weight.element_size()
        self.pruner = method.pruner(blocks, calibration or {})
        self._schedule = ALWAYS_DENSE if self.pruner is None else self.pruner.schedule
        self._clock, self._decoding = 0, False
        self._step: Step | None = None  # None: no step is under way
        self._meter = Meter(len(blocks.sizes[Site.DOWN]), self._device)
        self._slots: dict[int, Tensor] = {}  # of decode steps of so many tokens, at addresses that never change

    # The batch

    def start(self, slots: int) -> None:
        """Forgets the batch before; `slots` is the number of samples that can run at once."""
        self.counters, self.masks = Counters(), []
        self._meter.reset()
        self._step, self._clock, self._decoding = None, 0, False
        self._occupied = torch.zeros(slots, dtype=torch.bool, device=self._device)
        self._filling = torch.zeros_like(self._occupied)  # still in their prompt
        if self.pruner is not None:
            self.pruner.start(slots, self._meter)

    def join(self, slots: Sequence[int]) -> None:
        """New samples take these slots; they are in their prompt until `end` is told otherwise. The clock goes on."""
        joining = self._mask(slots)
        self._occupied |= joining
        self._filling |= joining
        if self.pruner is not None:
            self.pruner.join(joining)

    def leave(self, slots: Sequence[int]) -> None:
        """These samples no longer count from the next selection on."""
        leaving = self._mask(slots)
        self._occupied &= ~leaving
        self._filling &= ~leaving

    # One forward pass

    def begin(self, slot: Tensor, *, prompt: bool, decode: bool, late: Tensor | None = None) -> Mode:
        """Announces a forward pass. `slot` [T] int64 is the memory row of each token, -1 where a token never counts (padding, ended rows).
        `prompt`: it holds prompt tokens, so it is exact for every row; `decode`: it holds decode rows, so the clock advances.
        `late` [T] bool: tokens of the second half of a prompt, which some methods prune all the same."""
        self._clock += decode
        self._decoding = decode
        mode = Mode.OBSERVE if prompt and self._schedule.prunes else self._schedule.mode(self._clock)
        self._step = Step(mode, decode, slot if prompt else self._kept(slot), late)
        if self.pruner is not None:
            self.pruner.begin(self._step)
        if decode:
            self.counters.decode_steps += 1
            self.counters.sparse_steps += mode is Mode.SPARSE
        return mode

    @property
    def key(self) -> Hashable:
        """Of the decode step under way: steps of the same key and sizes do the same with what lies at the same addresses. None: do not
        record it."""
        assert self._step is not None, "no step is under way"
        return self._step.mode if self.pruner is None else self.pruner.key(self._step.mode)

    def run(self, place: int, x: Tensor) -> Tensor:
        """A patched module on x [..., in]; outside a step, as the model itself does."""
        assert self.pruner is not None, "nothing is patched for a method that does nothing"
        return self.pruner.run(place, x, self._step)

    def ran(self) -> None:
        """The model has run, or failed: calls of patched modules from here on are not part of the pass."""
        self._step = None

    def end(self, completed: Sequence[int] = (), finished: Tensor | None = None) -> None:
        """Ends the pass, after its tokens were chosen: folds what ended, selects anew where the schedule says so.

        `completed`: slots whose prompt was completed by it; `finished` [S] bool: slots that have generated their EOS by now.
        """
        self.ran()
        if completed:
            done = self._mask(completed)
            self._filling &= ~done
        if self.pruner is None:
            return
        ended = None
        if self._decoding and self._schedule.closes(self._clock):
            ended = self._occupied & ~self._filling
        elif completed:
            ended = done
        if ended is None:
            return
        rows = Rows(ended=ended, occupied=self._occupied, finished=torch.zeros_like(ended) if finished is None else finished)
        self.pruner.fold(rows)
        if self._schedule.mode(self._clock + 1) is Mode.SPARSE:
            self._select(self.pruner, rows)

    # What it did

    def report(self) -> Report:
        sites = self._sites()
        kept, dense = (sum(sum(getattr(sites[site.value], name)) for site in self._own()) for name in ("kept", "dense"))
        counters = replace(
            self.counters,
            weights_kept=kept,
            weights_dense=dense,
            sites=sites,
            bytes_read=self._bytes(sites, tuple(Site)),
            ffn_bytes_read=self._bytes(sites, FFN_SITES),
            refresh_bytes=self._meter.refresh_bytes,
            replaced=max(0, self.counters.updates - 1),
            left=[] if self.pruner is None else self.pruner.turnover,
            state_bytes=0 if self.pruner is None else self.pruner.state_bytes,
        )
        return Report(self.method.describe(), float(self.method.target), counters)

    def _select(self, pruner: Pruner, rows: Rows) -> None:
        if not pruner.select(rows):
            return
        self.counters.updates += 1
        if self._record:
            self.masks.append((self._clock, pad_sequence(pruner.retained, batch_first=True, padding_value=-1)))

    def _sites(self) -> dict[str, SiteCount]:
        """Weight elements over all decode steps, of every layer: what modules that are not patched have comes from the model."""
        steps, metered, blocks = self.counters.decode_steps, self._meter.kept(), self._blocks
        patched = self._own() if self.pruner is not None else ()
        found = {}
        for site, sizes in blocks.sizes.items():
            own = set(blocks.layers) if site in patched else set()
            filled = blocks.filled[site]
            kept = [metered[site][layer] if layer in own else filled[layer] * steps for layer in range(len(sizes))]
            found[site.value] = SiteCount(kept, [size * steps for size in sizes])
        return found

    def _own(self) -> tuple[Site, ...]:
        return tuple(site for site in self.method.sites if site in self._blocks.sizes)

    def _bytes(self, sites: Mapping[str, SiteCount], of: Sequence[Site]) -> int:
        """Weights that a decode step has to read. Zeros in a weight are read like the rest: the dense kernels that run them do."""
        counts = [sites[site.value] for site in of if site.value in sites]
        return self._element * sum(sum(count.dense if self.method.surface is Surface.WEIGHTS else count.kept) for count in counts)

    def _kept(self, slot: Tensor) -> Tensor:
        """The same at a fixed address, so that a recorded step sees it."""
        if len(slot) not in self._slots:
            with torch.inference_mode(mode=False):  # it outlives the caller's inference mode
                self._slots[len(slot)] = torch.empty_like(slot)
        return self._slots[len(slot)].copy_(slot)

    def _mask(self, slots: Sequence[int]) -> Tensor:
        mask = torch.zeros_like(self._occupied)
        mask[list(slots)] = True
        return mask
