"""The index set of kept neurons of each layer, shared by the batch (paper, equations 2 and 3).

The scores of every sample enter its memory, the memories are aggregated over the batch, and the top k are
kept.

A buffer [L, S, F] of scores can take gigabytes, so no method holds more than `TEMPORARIES` more of that size.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Final, final

import torch
from torch import Tensor

from regrow.core import Reduce, Rows, Spec
from regrow.errors import UsageError, require_one_of
from regrow.kernels import observe
from regrow.selection.budget import keep_count
from regrow.selection.schedule import Schedule

AGGREGATES = ("max", "mean")
MEMORIES = ("max", "none", "ema")
SELECTIONS = ("topk", "threshold")
WEIGHINGS = ("none", "down")
BUFFERS: Final = 3  # of the size [L, S, F] in an `IndexState`
TEMPORARIES: Final = 2  # of this size, at most, while a method runs


@final
@dataclass(frozen=True)
class IndexState:
    """The state of a batch. All buffers are preallocated, and their addresses never change."""

    total: Tensor  # [L, S, F] sum of zbar^2 over the committed tokens of the open phase
    pending: Tensor  # [L, S, F] `total` plus the tokens of a prompt pass that is not committed yet
    tokens: Tensor  # [S] number of tokens in `total` (T_b)
    memory: Tensor  # [L, S, F]
    known: Tensor  # [S] bool: the sample's memory holds a score that counts
    index: Tensor  # [L, k] int64, the kept neurons in ascending order; [L, 0] with thresholds
    kept: Tensor  # [L, F] bool, the same set as a mask
    turnover: Tensor  # [L] float64, 1 - |I_n and I_(n-1)| / |I_n| summed over the selections
    threshold: Tensor  # [L]; [0] with top k
    norms: Tensor  # [L, F], by which scores are weighed; [0] if they are not


@final
@dataclass(frozen=True)
class IndexSet:
    """The rule that selects the kept neurons: sparsity, schedule, and how scores are weighed and combined.

    Raises UsageError if a value is unknown or out of range.
    """

    sparsity: Decimal
    schedule: Schedule
    aggregate: str = "max"
    memory: str = "max"
    decay: float = 0.9  # weight of the old memory, for memory="ema"
    forget_finished: bool = False
    selection: str = "topk"
    weigh: str = "none"

    def __post_init__(self) -> None:
        require_one_of(AGGREGATES, aggregate=self.aggregate)
        require_one_of(MEMORIES, memory=self.memory)
        require_one_of(SELECTIONS, selection=self.selection)
        require_one_of(WEIGHINGS, weigh=self.weigh)
        if not 0 <= self.decay <= 1:
            raise UsageError(f"decay must lie in [0, 1], not {self.decay!r}")

    @property
    def may_lose_all(self) -> bool:
        """True if a selection can find no sample to count while samples still run.

        All are finished (`forget_finished`), or none has new scores (memory "none").
        """
        return self.forget_finished or self.memory == "none"

    @property
    def by_threshold(self) -> bool:
        """True if neurons are selected by threshold, False if the top k are kept."""
        return self.selection == "threshold"

    @property
    def weighed(self) -> bool:
        """True if the score of a neuron is multiplied by the norm of its column of down."""
        return self.weigh == "down"

    def keep(self, neurons: int) -> int:
        """Returns the largest number of neurons that a layer can keep: k, or all with thresholds.

        Raises UsageError if k is 0.
        """
        keep = keep_count(self.sparsity, neurons)
        return neurons if self.by_threshold else keep

    def init(self, spec: Spec, threshold: Tensor | None = None, norms: Tensor | None = None) -> IndexState:
        """Allocates the state of a batch.

        `threshold` `[L]` is needed to select by threshold, and `norms` `[L, F]` to weigh scores.
        """
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
            norms=torch.zeros(0) if norms is None else norms,
        )

    def clear(self, s: IndexState) -> None:
        """Resets the state to that after `init`, in the same buffers."""
        for buffer in (s.total, s.pending, s.tokens, s.memory, s.known, s.index, s.kept, s.turnover):
            buffer.zero_()

    def forget(self, s: IndexState, slots: Tensor) -> None:
        """Clears the slots `[S]` bool for new samples."""
        s.total.masked_fill_(slots[:, None], 0)
        s.memory.masked_fill_(slots[:, None], 0)
        s.tokens.masked_fill_(slots, 0)
        s.known.masked_fill_(slots, False)

    def open(self, s: IndexState) -> None:
        """Begins a forward pass whose squares are accumulated in `pending` while it runs.

        Squares that were not committed before are discarded.
        """
        s.pending.copy_(s.total)

    def observe(
        self, s: IndexState, layer: int, z: Tensor, slot: Tensor, reduce: Reduce | None = None
    ) -> None:
        """Adds zbar^2 of the activations z `[T, F]` of an open pass to one layer (equation 2).

        `slot` `[T]` is the memory row of each token, or -1 if the token does not count. Tokens with ||z|| = 0
        add nothing. `reduce` is that of the model, if it is split into shards (see `Blocks`).
        """
        observe(z.detach(), slot, s.pending[layer], reduce)

    def commit(
        self, s: IndexState, slot: Tensor, z: Tensor | None = None, reduce: Reduce | None = None
    ) -> None:
        """Commits the tokens whose `slot` `[T]` is not -1.

        With z `[L, T, F]`, the squares of these tokens are computed from z. Without z, the squares are those
        of the open pass; all tokens of a slot must then be committed together.
        """
        counted = torch.zeros_like(s.tokens).index_add_(0, slot.clamp(min=0), (slot >= 0).to(s.tokens.dtype))
        s.tokens.add_(counted)
        if z is not None:
            observe(z, slot, s.total, reduce)
        else:
            torch.where(counted[:, None] > 0, s.pending, s.total, out=s.total)

    def counted(self, s: IndexState, rows: Rows) -> Tensor:
        """Returns the slots `[S]` bool that take part in a selection."""
        counted = rows.occupied & s.known
        return counted & ~rows.finished if self.forget_finished else counted

    def fold(self, s: IndexState, rows: Rows) -> None:
        """Ends the phase of the slots `rows.ended`: scores enter the memory, sums are reset to zero.

        Scores are weighed before they enter the memory.
        """
        scored = rows.ended & (s.tokens > 0)
        score = (s.total / s.tokens.clamp(min=1)[:, None]).sqrt_()  # [L, S, F]
        if self.weighed:
            score.mul_(s.norms[:, None])
        if self.memory == "max":
            torch.maximum(s.memory, score, out=score)
        elif self.memory == "ema":
            torch.where(s.known[:, None], torch.lerp(score, s.memory, self.decay), score, out=score)
        torch.where(scored[:, None], score, s.memory, out=s.memory)
        s.known.copy_(torch.where(rows.ended, scored, s.known) if self.memory == "none" else s.known | scored)
        s.total.masked_fill_(rows.ended[:, None], 0)
        s.tokens.masked_fill_(rows.ended, 0)

    def select(self, s: IndexState, rows: Rows) -> None:
        """Selects the neurons of all layers by the aggregate over the rows that count.

        The k largest entries are kept (ties go to the lower index), or with thresholds the entries above the
        layer's threshold. Nothing changes if no row counts.
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
        """Returns the kept neurons of each layer, in ascending order."""
        return [kept.nonzero().squeeze(1) for kept in s.kept] if self.by_threshold else list(s.index)


def largest(score: Tensor, keep: int) -> Tensor:
    """Returns the mask `[..., F]` bool of the `keep` largest entries of `score` `[..., F]`.

    Ties go to the lower index. NaN counts as +inf.
    """
    score = score.nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)
    # Unsorted, because a GPU sorts one row after the other.
    least = torch.topk(score, keep, sorted=False).values.amin(-1, keepdim=True)
    above, tied = score > least, score == least
    return above | tied & (tied.cumsum(-1) <= keep - above.sum(-1, keepdim=True))
