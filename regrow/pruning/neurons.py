"""Index sets of FFN neurons, chosen when a phase ends; sparse steps run a compact copy of what was retained."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import final

import torch
from torch import Tensor

from regrow.core import Blocks, Mode, Rows, Site, Spec, Step, score_dtype
from regrow.kernels import SparseFFN, relative, sparse_ffn
from regrow.pruning.base import Pruner
from regrow.pruning.meter import Meter
from regrow.selection.index_set import IndexSet, IndexState


@final
class NeuronPruner(Pruner):
    def __init__(self, rule: IndexSet, blocks: Blocks, *, threshold: Tensor | None = None, fixed: Tensor | None = None) -> None:
        """`threshold` [L] for a rule that goes by one. `fixed` [L, F]: scores that stand from the start, so that nothing is observed."""
        weights = blocks.ffns[0].weights
        self.schedule, self._rule, self._blocks, self._threshold, self._fixed = rule.schedule, rule, blocks, threshold, fixed
        self._neurons, self._width = weights.gate.shape
        self._device = weights.gate.device
        self._dtype = score_dtype(weights.gate)
        self._keep = rule.keep(self._neurons)
        self._sparse: list[SparseFFN] = []  # from the first batch on
        self.state: IndexState | None = None  # of batches of one size
        self._dictated: list[Tensor] = []

    def start(self, slots: int, meter: Meter) -> None:
        self._meter, self._kept = meter, [0] * len(self._blocks.ffns)
        self._coming = iter(self._dictated)
        if not self._sparse:
            kind = self._blocks.ffns[0].weights.gate
            scratch = kind.new_empty(self._keep, self._width)
            self._sparse = [sparse_ffn(ffn.weights, self._keep, scratch, varies=self._rule.by_threshold) for ffn in self._blocks.ffns]
        for sparse in self._sparse:
            sparse.forget()
        if self.state is None or len(self.state.tokens) != slots:
            self.state = self._rule.init(Spec(len(self._kept), self._neurons, slots, self._device, self._dtype), self._threshold)
        else:  # the same buffers: a recorded step knows their addresses
            self._rule.clear(self.state)

    def join(self, joining: Tensor) -> None:
        state = self._begun()
        self._rule.forget(state, joining)
        if self._fixed is not None:
            state.memory.copy_(torch.where(joining[:, None], self._fixed[:, None], state.memory))
            state.known.logical_or_(joining)

    def begin(self, step: Step) -> None:
        if step.mode is Mode.OBSERVE and self._fixed is None:
            self._rule.count(self._begun(), step.slot)
        if step.decode:
            for kept, layer in zip(self._kept, self._blocks.layers, strict=True):
                computed = kept if step.mode is Mode.SPARSE else self._neurons
                self._meter.count(Site.GATE_UP, layer, 2 * computed * self._width)
                self._meter.count(Site.DOWN, layer, computed * self._width)

    def run(self, place: int, x: Tensor, step: Step | None) -> Tensor:
        ffn = self._blocks.ffns[place]
        if step is not None and step.mode is Mode.SPARSE:
            return self._sparse[place](x)
        z = ffn.hidden(x)
        if step is not None and step.mode is Mode.OBSERVE and self._fixed is None:
            self._rule.observe(self._begun(), place, z.flatten(0, -2), step.slot)
        return ffn.output(z)

    def scores(self, place: int, x: Tensor) -> Tensor:
        """s [1, F] (eq. 2) of the sequence."""
        z = self._blocks.ffns[place].hidden(x).to(self._dtype)
        live = torch.ones(len(z), dtype=torch.bool, device=z.device)
        return relative(z, live).square_().mean(dim=0, keepdim=True).sqrt_()

    def fold(self, rows: Rows) -> None:
        self._rule.fold(self._begun(), rows)

    def select(self, rows: Rows) -> bool:
        state = self._begun()
        # The host waits for the answer only where it can be no.
        if self._rule.may_lose_all and not bool(self._rule.counted(state, rows).any()):
            return False
        if self._dictated:
            state.memory.copy_(next(self._coming)[:, None])
        self._rule.select(state, rows)
        retained = self.retained
        self._kept = [len(index) for index in retained]
        moved = sum(ffn.load(index) for ffn, index in zip(self._sparse, retained, strict=True))
        self._meter.refresh_bytes += 2 * moved * 3 * self._width * self._blocks.ffns[0].weights.gate.element_size()
        return True

    def dictate(self, scores: Sequence[Tensor]) -> None:
        self._dictated = [score.to(self._device, self._dtype) for score in scores]

    @property
    def retained(self) -> list[Tensor]:
        return self._rule.retained(self._begun())

    def key(self, mode: Mode) -> Hashable:
        if mode is Mode.SPARSE and self._rule.by_threshold:
            return None  # sizes change with every selection
        observed = mode is Mode.OBSERVE and self._fixed is None
        return mode, self._begun().total.data_ptr() if observed else None  # the state of batches of another size lies elsewhere

    @property
    def turnover(self) -> list[float]:
        return [] if self.state is None else [float(value) for value in self.state.turnover.tolist()]

    @property
    def state_bytes(self) -> int:
        s = self.state
        return (0 if s is None else sum(t.nbytes for t in (s.total, s.memory, s.index, s.kept))) + sum(f.state_bytes for f in self._sparse)

    def _begun(self) -> IndexState:
        assert self.state is not None, "no batch was started"
        return self.state
