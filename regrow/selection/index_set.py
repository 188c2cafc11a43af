"""One retained index set a layer, shared by the batch: per-sample scores, their memory, its aggregate, the top k (paper, eqs. 2-3)."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import final

import torch
from torch import Tensor

from regrow.core import Rows, Spec
from regrow.errors import UsageError, require_one_of
from regrow.kernels import observe
from regrow.selection.budget import keep_count
from regrow.selection.schedule import Schedule

AGGREGATES = ("max", "mean")
MEMORIES = ("max", "none", "ema")
SELECTIONS = ("topk", "threshold")


@final
@dataclass(frozen=True)
class IndexState:
    """All of it preallocated; every buffer keeps its address."""

    total: Tensor  # [L, S, F] sum of zbar^2 over the committed tokens of the open phase
    pending: Tensor  # [L, S, F] the same with the tokens of a prompt pass that is not committed yet
    tokens: Tensor  # [S] how many those are (T_b)
    memory: Tensor  # [L, S, F]
    known: Tensor  # [S] bool: the memory row holds something that counts
    index: Tensor  # [L, k] int64, retained neurons in ascending order; [L, 0] with thresholds
    kept: Tensor  # [L, F] bool, the same set
    turnover: Tensor  # [L] float64, 1 - |I_n and I_(n-1)| / |I_n| summed over the updates
    threshold: Tensor  # [L]; [0] with top k


@final
@dataclass(frozen=True)
class IndexSet:
    sparsity: Decimal
    schedule: Schedule
    aggregate: str = "max"
    memory: str = "max"
    decay: float = 0.9  # weight of the old memory where memory is "ema"
    forget_finished: bool = False
    selection: str = "topk"

    def __post_init__(self) -> None:
        require_one_of(AGGREGATES, aggregate=self.aggregate)
        require_one_of(MEMORIES, memory=self.memory)
        require_one_of(SELECTIONS, selection=self.selection)
        if not 0 <= self.decay <= 1:
            raise UsageError(f"decay must lie in [0, 1], not {self.decay!r}")

    @property
    def may_lose_all(self) -> bool:
        """Whether a batch can come to have no row that counts while its samples are still there."""
        return self.forget_finished or self.memory == "none"

    @property
    def by_threshold(self) -> bool:
        return self.selection == "threshold"

    def keep(self, neurons: int) -> int:
        """The most neurons of a layer that it retains: k, and with thresholds all."""
        keep = keep_count(self.sparsity, neurons)
        return neurons if self.by_threshold else keep

    def init(self, spec: Spec, threshold: Tensor | None = None) -> IndexState:
        """`threshold` [L] where the selection goes by one."""
        shape, keep = (
            (spec.layers, spec.slots, spec.neurons),
            0 if self.by_threshold else self.keep(spec.neurons),
        )
        return IndexState(
            total=torch.zeros(shape, dtype=spec.dtype, device=spec.device),
            pending=torch.zeros(shape, dtype=spec.dtype, device=spec.device),
            tokens=torch.zeros(spec.slots, dtype=spec.dtype, device=spec.device),
            memory=torch.zeros(shape, dtype=spec.dtype, device=spec.device),
            known=torch.zeros(spec.slots, dtype=torch.bool, device=spec.device),
            index=torch.zeros(spec.layers, keep, dtype=torch.int64, device=spec.device),
            kept=torch.zeros(spec.layers, spec.neurons, dtype=torch.bool, device=spec.device),
            turnover=torch.zeros(spec.layers, dtype=torch.float64, device=spec.device),
            threshold=torch.zeros(0) if threshold is None else threshold.to(spec.device, spec.dtype),
        )

    def clear(self, s: IndexState) -> None:
        """As from `init`, in the same buffers."""
        for buffer in (s.total, s.pending, s.tokens, s.memory, s.known, s.index, s.kept, s.turnover):
            buffer.zero_()

    def forget(self, s: IndexState, slots: Tensor) -> None:
        """Empties the slots [S] bool for new samples."""
        s.total.masked_fill_(slots[:, None], 0)
        s.memory.masked_fill_(slots[:, None], 0)
        s.tokens.masked_fill_(slots, 0)
        s.known.masked_fill_(slots, False)

    def open(self, s: IndexState) -> None:
        """Begins a pass whose squares are added up while it runs; what was not committed before is dropped."""
        s.pending.copy_(s.total)

    def observe(self, s: IndexState, layer: int, z: Tensor, slot: Tensor) -> None:
        """Adds zbar^2 of the activations z [T, F] of an open pass (eq. 2); rows with ||z|| = 0 add nothing. `slot` [T] is each token's
        memory row, -1 where it does not count."""
        observe(z.detach(), slot, s.pending[layer])

    def commit(self, s: IndexState, slot: Tensor, z: Tensor | None = None) -> None:
        """Counts the tokens that stand: their `slot` [T], -1 for the others. Their squares are those of `z` [L, T, F], or without it
        those of the open pass, of which a slot's tokens stand together."""
        counted = torch.zeros_like(s.tokens).index_add_(0, slot.clamp(min=0), (slot >= 0).to(s.tokens.dtype))
        s.tokens.add_(counted)
        if z is not None:
            observe(z, slot, s.total)
        else:
            s.total.copy_(torch.where(counted[:, None] > 0, s.pending, s.total))

    def counted(self, s: IndexState, rows: Rows) -> Tensor:
        """[S] bool: the slots that a selection goes by."""
        counted = rows.occupied & s.known
        return counted & ~rows.finished if self.forget_finished else counted

    def fold(self, s: IndexState, rows: Rows) -> None:
        """Ends the phase of `rows.ended`: their scores enter the memory, their accumulators are zeroed."""
        scored = rows.ended & (s.tokens > 0)
        score = (s.total / s.tokens.clamp(min=1)[:, None]).sqrt_()  # [L, S, F]
        if self.memory == "max":
            torch.maximum(s.memory, score, out=score)
        elif self.memory == "ema":
            score = torch.where(s.known[:, None], torch.lerp(score, s.memory, self.decay), score)
        s.memory.copy_(torch.where(scored[:, None], score, s.memory))
        s.known.copy_(torch.where(rows.ended, scored, s.known) if self.memory == "none" else s.known | scored)
        s.total.masked_fill_(rows.ended[:, None], 0)
        s.tokens.masked_fill_(rows.ended, 0)

    def select(self, s: IndexState, rows: Rows) -> None:
        """Retains what the aggregate of the rows that count says, for every layer at once; nothing changes where no row counts.

        The k largest entries, ties to the lower index; or with thresholds the entries above the layer's.
        """
        counted = self.counted(s, rows)
        if self.aggregate == "max":
            score = torch.where(counted[:, None], s.memory, -1).amax(dim=1)  # [L, F]
        else:
            score = torch.where(counted[:, None], s.memory, 0).sum(dim=1) / counted.sum().clamp(min=1)
        if self.by_threshold:
            chosen = score > s.threshold[:, None]
        else:
            chosen = largest(score, s.index.shape[1])
            index = torch.nonzero_static(chosen, size=s.index.numel())[:, 1].view_as(s.index)
            s.index.copy_(torch.where(counted.any(), index, s.index))
        chosen = torch.where(counted.any(), chosen, s.kept)
        stayed = (chosen & s.kept).sum(dim=1).double() / chosen.sum(dim=1).clamp(min=1)
        s.turnover.add_(torch.where(s.kept.any(), 1 - stayed, 0))
        s.kept.copy_(chosen)

    def retained(self, s: IndexState) -> list[Tensor]:
        """The retained neurons of each layer, in ascending order."""
        return [kept.nonzero().squeeze(1) for kept in s.kept] if self.by_threshold else list(s.index)


def largest(score: Tensor, keep: int) -> Tensor:
    """[..., F] bool: the `keep` largest entries of score [..., F], ties to the lower index. What is no number counts as infinite."""
    score = score.nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)
    least = torch.topk(score, keep, sorted=False).values.amin(-1, keepdim=True)  # a GPU sorts row after row
    above, tied = score > least, score == least
    return above | tied & (tied.cumsum(-1) <= keep - above.sum(-1, keepdim=True))
