"""Prunes the inputs of linear layers in every decode step.

The scores are the inputs' magnitudes (TEAL), or the magnitudes times the norms of the weight columns (WINA).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import final

from torch import Tensor
from torch.nn import functional

from regrow.core import Blocks, Mode, Pass, score_dtype
from regrow.errors import require_one_of
from regrow.kernels import AboveThreshold, magnitude
from regrow.pruning.column_norms import column_norms
from regrow.pruning.input_groups import InputGroup, share_an_input
from regrow.pruning.meter import Meter
from regrow.pruning.pruner import Pruner
from regrow.selection.budget import keep_count
from regrow.selection.index_set import largest
from regrow.selection.schedule import ALWAYS_SPARSE

SHARES = ("mean_abs", "abs_mean")


@final
@dataclass(frozen=True)
class InputRule:
    """How inputs are scored and which of them are kept.

    The score of input i is |x_i|, or |x_i| ||W[:, i]||_2 if `weighed`. Over the live rows of a batch, |x_i|
    becomes the mean of |x_i| (`share` "mean_abs") or the magnitude of the mean of x_i ("abs_mean"). The
    inputs whose score exceeds the linear layer's threshold are kept, or those with the k largest scores if
    not `by_threshold`.
    """

    sparsity: Decimal
    weighed: bool
    share: str
    by_threshold: bool

    def __post_init__(self) -> None:
        require_one_of(SHARES, share=self.share)


@final
class InputPruner(Pruner):
    """Keeps inputs of linear layers, selected in every decode step (TEAL, WINA)."""

    schedule = ALWAYS_SPARSE
    ready = True

    def __init__(self, rule: InputRule, blocks: Blocks, threshold: Tensor | None = None) -> None:
        """Sparse steps need `threshold` `[linear layers]` if the rule is `by_threshold`.

        Without it, the pruner only computes scores.
        """
        self._rule, self._linears, self.places = rule, blocks.linears, len(blocks.linears)
        self._threshold: Sequence[float] | None = None if threshold is None else threshold.tolist()
        self._keep = [
            0 if rule.by_threshold else keep_count(rule.sparsity, linear.weight.shape[1], "inputs")
            for linear in self._linears
        ]
        self._sparse: list[InputGroup] = []  # the group of each linear layer, once a batch has started
        self._norms = [column_norms(linear.weight) if rule.weighed else None for linear in self._linears]

    def start(self, slots: int, meter: Meter) -> None:  # noqa: ARG002
        assert (self._threshold is not None) == self._rule.by_threshold, "a rule by thresholds needs them"
        self._meter = meter
        if not self._sparse:
            shared = share_an_input(self._linears, self._threshold, weighed=self._rule.weighed)
            self._sparse = [
                group for places in shared for group in [InputGroup(places, self._linears)] * len(places)
            ]

    def prepare(self, planned: Pass) -> None:  # noqa: ARG002
        self._meter.drop()

    def run(self, place: int, x: Tensor, now: Pass | None) -> Tensor:
        linear = self._linears[place]
        if now is not None and now.mode is Mode.SPARSE:
            return self._sparse[place].run(place, x, lambda: self._shared(place, x.flatten(0, -2), now.slot))
        return functional.linear(x, linear.weight, linear.bias)

    def commit(self, done: Pass, slot: Tensor) -> None:  # noqa: ARG002
        if not done.decode:
            return
        self._meter.commit()
        for linear, keep in zip(self._linears, self._keep, strict=True):
            if done.mode is not Mode.SPARSE:
                self._meter.count(linear.site, linear.layer, linear.weight.numel())
            elif self._threshold is None:  # with thresholds, only the device knows how many inputs are kept
                self._meter.count(linear.site, linear.layer, keep * linear.weight.shape[0])

    def key(self, planned: Pass) -> Hashable:
        return planned.mode

    def scores(self, place: int, x: Tensor) -> Tensor:
        return self._score(place, x.to(score_dtype(x)).abs())

    def _shared(self, place: int, x: Tensor, slot: Tensor) -> Tensor | AboveThreshold:
        """Returns the inputs `[in]` bool that all rows of x `[T, in]` keep, or the rule that decides it."""
        linear, abs_mean = self._linears[place], self._rule.share == "abs_mean"
        if self._threshold is None:
            return largest(self._score(place, magnitude(x, slot, abs_mean=abs_mean)), self._keep[place])
        measured = self._meter.measured(linear.site, linear.layer)
        return AboveThreshold(
            slot,
            self._norms[place],
            self._threshold[place],
            abs_mean,
            self._sparse[place].outputs,
            measured,
        )

    def _score(self, place: int, magnitudes: Tensor) -> Tensor:
        """Returns the scores of inputs with these magnitudes `[..., in]`."""
        norms = self._norms[place]
        return magnitudes if norms is None else magnitudes * norms.to(magnitudes.dtype)

    @property
    def sources(self) -> Sequence[Tensor]:
        copied = self._rule.weighed or self._linears[0].weight.is_cuda
        return [linear.weight for linear in self._linears] if copied else ()

    @property
    def state_bytes(self) -> int:
        return sum(norms.nbytes for norms in self._norms if norms is not None) + sum(
            group.state_bytes for group in set(self._sparse)
        )
