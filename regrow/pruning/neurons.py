"""Selects FFN neurons when a phase ends; sparse steps compute only the kept neurons."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import chain
from typing import final

import torch
from torch import Tensor

from regrow.core import Blocks, Mode, Pass, Rows, Site, Spec, score_dtype
from regrow.errors import UsageError
from regrow.kernels import MatmulChoice, SparseFFN, choose_matmul, relative, sparse_ffn
from regrow.pruning.column_norms import column_norms
from regrow.pruning.meter import Meter
from regrow.pruning.pruner import Pruner, SampleMemory
from regrow.selection.index_set import IndexSet, IndexState


@final
class NeuronPruner(Pruner, SampleMemory):
    """Keeps an index set of FFN neurons from one selection to the next."""

    def __init__(
        self, rule: IndexSet, blocks: Blocks, *, threshold: Tensor | None = None, fixed: Tensor | None = None
    ) -> None:
        """`threshold` `[L]` is needed if the rule selects by threshold.

        `fixed` `[L, F]` holds scores that are known from the start. Nothing is observed then.
        Raises UsageError if the rule weighs scores and the norm of a column of down is not finite.
        """
        weights = blocks.ffns[0].weights
        self.schedule, self._rule, self._blocks, self._threshold, self._fixed = (
            rule.schedule,
            rule,
            blocks,
            threshold,
            fixed,
        )
        self.places = len(blocks.ffns)
        self._neurons, self._width = weights.gate.shape
        self._device, self._dtype = weights.gate.device, score_dtype(weights.gate)
        self._keep = rule.keep(self._neurons)
        self._norms = _norms(blocks) if rule.weighed else None
        self._sparse: list[SparseFFN] = []  # one per layer, once a batch has started
        self._laid_out: MatmulChoice | None = None  # the matmul that the copies are laid out for, if any
        self._copies_id = object()  # replaced when the copies are made anew; part of the graph key
        # z of an observed decode pass, `[L, T, F]` for the most tokens T so far. Captured graphs write to it.
        self._seen: Tensor | None = None
        self._dictated: list[Tensor] = []
        self.state: IndexState | None = None  # made anew when the size of the batch changes

    def dictate(self, scores: Sequence[Tensor]) -> None:
        self._dictated = [score.to(self._device, self._dtype) for score in scores]

    @property
    def memory(self) -> SampleMemory:
        # An attribute would be a reference cycle, which keeps the copies alive until garbage collection.
        return self

    # Batch

    def start(self, slots: int, meter: Meter) -> None:
        self._meter, self._kept, self._coming = meter, [0] * self.places, iter(self._dictated)
        self._take_copies(slots)
        for sparse in self._sparse:
            sparse.forget()
        if self.state is None or len(self.state.tokens) != slots:
            self._seen = None
            self.state = self._rule.init(
                Spec(self.places, self._neurons, slots, self._device, self._dtype),
                self._threshold,
                self._norms,
            )
        else:  # the buffers stay, because captured graphs hold their addresses
            self._rule.clear(self.state)

    def _take_copies(self, rows: int) -> None:
        """Makes compact copies in the layout that is fastest for steps of `rows` rows.

        The copies of the previous batch are reused if they have that layout.
        """
        kind, ffns = self._blocks.ffns[0].weights.gate, self._blocks.ffns
        suited = choose_matmul(kind.dtype, self._device, 3 * len(ffns) * kind.nbytes)
        laid_out = suited if suited.lays_out(rows) else None
        if self._sparse and laid_out is self._laid_out:
            return
        # The old copies are released before the new ones are allocated.
        self._sparse, self._laid_out, self._copies_id = [], laid_out, object()
        scratch, varies = kind.new_empty(self._keep, self._width), self._rule.by_threshold
        self._sparse = [
            sparse_ffn(ffn.weights, self._keep, scratch, varies=varies, laid_out=laid_out) for ffn in ffns
        ]

    def join(self, joining: Tensor) -> None:
        state = self._begun()
        self._rule.forget(state, joining)
        if self._fixed is not None:
            state.memory.copy_(torch.where(joining[:, None], self._fixed[:, None], state.memory))
            state.known.logical_or_(joining)

    # Forward pass

    def prepare(self, planned: Pass) -> None:
        if not self._observes(planned.mode):
            return
        if planned.prompt:
            self._rule.open(self._begun())
        else:
            self._buffer(len(planned.slot))

    def run(self, place: int, x: Tensor, now: Pass | None) -> Tensor:
        ffn = self._blocks.ffns[place]
        if now is not None and now.mode is Mode.SPARSE:
            y = self._sparse[place](x)
            return y if self._blocks.reduce is None else self._blocks.reduce(y)
        z = ffn.hidden(x)
        if now is not None and self._observes(now.mode):
            if now.prompt:
                self._rule.observe(self._begun(), place, z.flatten(0, -2), now.slot, self._blocks.reduce)
            else:
                self._observed(len(now.slot))[place].copy_(z.detach().flatten(0, -2))
        return ffn.output(z)

    def commit(self, done: Pass, slot: Tensor) -> None:
        if self._observes(done.mode):
            z = None if done.prompt else self._observed(len(slot))
            self._rule.commit(self._begun(), slot, z, self._blocks.reduce)
        if done.decode:
            for kept, layer in zip(self._kept, self._blocks.layers, strict=True):
                computed = kept if done.mode is Mode.SPARSE else self._neurons
                self._meter.count(Site.GATE_UP, layer, 2 * computed * self._width)
                self._meter.count(Site.DOWN, layer, computed * self._width)

    def scores(self, place: int, x: Tensor) -> Tensor:
        """Returns the score s `[1, F]` of the sequence (equation 2), weighed if the rule says so."""
        z = self._blocks.ffns[place].hidden(x).to(self._dtype)
        live = torch.ones(len(z), dtype=torch.bool, device=z.device)
        score = relative(z, live, self._blocks.reduce).square_().mean(dim=0, keepdim=True).sqrt_()
        return score if self._norms is None else score.mul_(self._norms[place])

    def key(self, planned: Pass) -> Hashable:
        if planned.mode is Mode.SPARSE and self._rule.by_threshold:
            return None  # the number of kept neurons changes with every selection
        observed = self._observes(planned.mode)
        written = (self._seen.data_ptr(), len(self._seen[0])) if observed and self._seen is not None else None
        return planned.mode, written, self._copies_id

    # Memory of the samples

    def fold(self, rows: Rows) -> None:
        self._rule.fold(self._begun(), rows)

    def select(self, rows: Rows) -> list[Tensor] | None:
        state = self._begun()
        # This check synchronises, so it runs only if the rows may stop counting.
        if self._rule.may_lose_all and not bool(self._rule.counted(state, rows).any()):
            return None
        if self._dictated:
            state.memory.copy_(next(self._coming)[:, None])
        self._rule.select(state, rows)
        retained = self._rule.retained(state)
        self._kept = [len(index) for index in retained]
        moved = sum(ffn.load(index) for ffn, index in zip(self._sparse, retained, strict=True))
        self._meter.refresh_bytes += (
            2 * moved * 3 * self._width * self._blocks.ffns[0].weights.gate.element_size()
        )
        return retained

    @property
    def ready(self) -> bool:
        return any(self._kept)

    @property
    def remembered(self) -> Tensor | None:
        if self.state is None or self._fixed is not None:
            return None
        return torch.where(self.state.known[:, None], self.state.memory, torch.nan)

    @property
    def index(self) -> Tensor | None:
        return None if self.state is None or self._rule.by_threshold else self.state.index

    @property
    def turnover(self) -> list[float]:
        return [] if self.state is None else [float(value) for value in self.state.turnover.tolist()]

    # Cost

    @property
    def sources(self) -> Sequence[Tensor]:
        weights = [ffn.weights for ffn in self._blocks.ffns]
        if self._fixed is None:
            return [w.down for w in weights]
        return list(chain.from_iterable((w.gate, w.up, w.down) for w in weights))

    @property
    def state_bytes(self) -> int:
        s = self.state
        held = [] if s is None else [s.total, s.pending, s.memory, s.norms, s.index, s.kept]
        held += [] if self._seen is None else [self._seen]
        return sum(tensor.nbytes for tensor in held) + sum(ffn.state_bytes for ffn in self._sparse)

    def _observes(self, mode: Mode) -> bool:
        return mode is Mode.OBSERVE and self._fixed is None

    def _buffer(self, tokens: int) -> None:
        """Provides the buffer for an observed decode pass of that many tokens."""
        if self._seen is None or len(self._seen[0]) < tokens:
            kind = self._blocks.ffns[0].weights.gate
            rows = max(tokens, len(self._begun().tokens))
            # The buffer outlives the caller's inference mode; an inference tensor could not be written later.
            with torch.inference_mode(mode=False):
                self._seen = kind.new_empty(self.places, rows, self._neurons)

    def _observed(self, tokens: int) -> Tensor:
        """Returns z `[L, T, F]` of an observed decode pass of T tokens."""
        assert self._seen is not None, "no observed pass was prepared"
        return self._seen[:, :tokens]

    def _begun(self) -> IndexState:
        assert self.state is not None, "no batch was started"
        return self.state


def _norms(blocks: Blocks) -> Tensor:
    """Returns ||W_2[:, j]||_2 of every neuron, `[L, F]`. Raises UsageError if one of them is not finite."""
    norms = torch.stack([column_norms(ffn.weights.down) for ffn in blocks.ffns])
    finite = norms.isfinite().all(dim=1).tolist()
    if not all(finite):
        name = blocks.ffns[finite.index(False)].name
        raise UsageError(
            f'weigh="down" needs finite weights, but the down projection of {name} has a column without a '
            "finite norm; load an undamaged checkpoint"
        )
    return norms
