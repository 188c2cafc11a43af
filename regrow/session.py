"""The one mutable object: it owns the clock, the method's state and the counters, and runs every pruned FFN."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, final

import torch
from torch import Tensor

from regrow.core import FFNWeights, Mode, Rows, Spec
from regrow.kernels import sparse_ffn
from regrow.method.base import Method
from regrow.method.index_set import IndexState
from regrow.report import Counters, Report


class FFN(Protocol):
    """What the session needs of a gated FFN; the adapter finds them."""

    @property
    def weights(self) -> FFNWeights: ...
    @property
    def hidden(self) -> Callable[[Tensor], Tensor]: ...
    @property
    def output(self) -> Callable[[Tensor], Tensor]: ...


@final
class Session:
    """One method on one model. A host calls `start` for a batch, `join` for each sample, then for every forward pass `begin`, the model,
    `ran`, `end`; the patched FFNs call `run`."""

    def __init__(self, method: Method, ffns: Sequence[FFN], dense_ffns: Sequence[FFN] = (), *, record_masks: bool = False) -> None:
        """`dense_ffns` are skipped layers: they stay as they are and count as dense. With `record_masks`, `masks` lists every selection."""
        weights = ffns[0].weights
        self.method, self.counters = method, Counters()
        self.masks: list[tuple[int, Tensor]] = []  # (decode step, index [L, k])
        self._ffns, self._rule, self._record = ffns, method.index_set(), record_masks
        self._neurons, self._device = weights.gate.shape[0], weights.gate.device
        self._keep = self._rule.keep(self._neurons)
        self._neuron_bytes = 3 * weights.gate.shape[1] * weights.gate.element_size()
        self._dense_neurons = sum(ffn.weights.gate.shape[0] for ffn in dense_ffns)
        self._dtype = torch.float64 if weights.gate.dtype == torch.float64 else torch.float32
        prunes = self._rule.schedule.prunes
        scratch = torch.empty(self._keep if prunes else 0, weights.gate.shape[1], dtype=weights.gate.dtype, device=self._device)
        self._sparse = [sparse_ffn(ffn.weights, self._keep, scratch) for ffn in ffns] if prunes else []
        self._state: IndexState | None = None
        self._mode: Mode | None = None  # None: no step is under way
        self._clock, self._decoding = 0, False
        self._slot = torch.empty(0)

    # The batch

    def start(self, slots: int) -> None:
        """Forgets the batch before; `slots` is the number of samples that can run at once."""
        self.counters, self.masks = Counters(), []
        self._mode, self._clock, self._decoding = None, 0, False
        self._occupied = torch.zeros(slots, dtype=torch.bool, device=self._device)
        self._filling = torch.zeros_like(self._occupied)  # still in their prompt
        for ffn in self._sparse:
            ffn.forget()
        if self._rule.schedule.prunes:
            self._state = self._rule.init(Spec(len(self._ffns), self._neurons, slots, self._device, self._dtype))

    def join(self, slots: Sequence[int]) -> None:
        """New samples take these slots; they are in their prompt until `end` is told otherwise. The clock goes on."""
        joining = self._mask(slots)
        self._occupied |= joining
        self._filling |= joining
        if self._state is not None:
            self._rule.forget(self._state, joining)

    def leave(self, slots: Sequence[int]) -> None:
        """These samples no longer count from the next selection on."""
        leaving = self._mask(slots)
        self._occupied &= ~leaving
        self._filling &= ~leaving

    # One forward pass

    def begin(self, slot: Tensor, *, prompt: bool, decode: bool) -> Mode:
        """Announces a forward pass. `slot` [T] int64 is the memory row of each token, -1 where a token never counts (padding, ended rows).
        `prompt`: it holds prompt tokens, so it is exact for every row; `decode`: it holds decode rows, so the clock advances."""
        self._decoding, self._slot = decode, slot
        self._clock += decode
        planned = self._rule.schedule.mode(self._clock)
        self._mode = Mode.OBSERVE if prompt and self._state is not None else planned
        if self._mode is Mode.OBSERVE and self._state is not None:
            self._rule.count(self._state, slot)
        if decode:
            self.counters.decode_steps += 1
            self.counters.sparse_steps += self._mode is Mode.SPARSE
            self.counters.neurons_dense += self._neurons * len(self._ffns) + self._dense_neurons
            self._computed(self._dense_neurons)
        return self._mode

    def run(self, layer: int, x: Tensor) -> Tensor:
        """The FFN of a pruned layer on x [..., D]; outside a step, as the model itself does."""
        if self._mode is Mode.SPARSE:
            self._computed(self._keep)
            return self._sparse[layer](x)
        z = self._ffns[layer].hidden(x)
        if self._mode is Mode.OBSERVE and self._state is not None:
            self._rule.observe(self._state, layer, z.flatten(0, -2), self._slot)
        if self._mode is not None and self._decoding:
            self._computed(self._neurons)
        return self._ffns[layer].output(z)

    def ran(self) -> None:
        """The model has run, or failed: FFN calls from here on are not part of the pass."""
        self._mode = None

    def end(self, completed: Sequence[int] = (), finished: Tensor | None = None) -> None:
        """Ends the pass, after its tokens were chosen: folds what ended, selects anew where the schedule says so.

        `completed`: slots whose prompt was completed by it; `finished` [S] bool: slots that have generated their EOS by now.
        """
        self.ran()
        if completed:
            done = self._mask(completed)
            self._filling &= ~done
        if self._state is None:
            return
        schedule, ended = self._rule.schedule, None
        if self._decoding and schedule.closes(self._clock):
            ended = self._occupied & ~self._filling
        elif completed:
            ended = done
        if ended is None:
            return
        counted = self._occupied if finished is None or not self._rule.forget_finished else self._occupied & ~finished
        rows = Rows(ended=ended, counted=counted)
        self._rule.fold(self._state, rows)
        if schedule.mode(self._clock + 1) is Mode.SPARSE:
            self._select(self._state, rows)

    # What it did

    def report(self) -> Report:
        c, s = self.counters, self._state
        turnover = [0.0] * len(self._ffns) if s is None or c.updates < 2 else (s.turnover / (c.updates - 1)).tolist()
        buffers = 0 if s is None else sum(t.nbytes for t in (s.total, s.memory, s.index, s.kept))
        return Report(
            method=self.method.describe(),
            target_sparsity=float(self._rule.sparsity),
            actual_sparsity=1 - c.neurons_computed / c.neurons_dense if c.neurons_dense else 0.0,
            sparse_share=c.sparse_steps / c.decode_steps if c.decode_steps else 0.0,
            turnover=turnover,
            state_bytes=buffers + sum(ffn.state_bytes for ffn in self._sparse),
            **vars(c),
        )

    def _select(self, state: IndexState, rows: Rows) -> None:
        # The host waits for the answer only where it can be no.
        if self._rule.may_lose_all and not bool((rows.counted & state.known).any()):
            return
        self._rule.select(state, rows)
        moved = sum(ffn.load(index) for ffn, index in zip(self._sparse, state.index, strict=True))
        self.counters.updates += 1
        self.counters.refresh_bytes += 2 * moved * self._neuron_bytes
        if self._record:
            self.masks.append((self._clock, state.index.clone()))

    def _computed(self, neurons: int) -> None:
        self.counters.neurons_computed += neurons
        self.counters.ffn_bytes_read += neurons * self._neuron_bytes

    def _mask(self, slots: Sequence[int]) -> Tensor:
        mask = torch.zeros_like(self._occupied)
        mask[list(slots)] = True
        return mask
