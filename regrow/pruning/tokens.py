"""Selects FFN neurons in every decode step, from the activations of that step."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import final

import torch
from torch import Tensor
from torch.nn import functional

from regrow.core import Blocks, FFNWeights, Mode, Pass, Site, score_dtype
from regrow.errors import require_one_of
from regrow.kernels import relative
from regrow.pruning.meter import Meter
from regrow.pruning.pruner import Pruner
from regrow.selection.budget import keep_count
from regrow.selection.index_set import largest
from regrow.selection.schedule import ALWAYS_SPARSE

SHARES = ("mean", "max", "none")


@final
@dataclass(frozen=True)
class TokenRule:
    """How neurons are scored and which of them are kept.

    The score of a neuron is |act(gate x)| if `gated`, so up and down shrink (CATS). Otherwise the score is
    |zbar|, and only down shrinks. `share` combines the scores over the live rows of a batch: "mean", "max",
    or "none". With "none" every row has its own mask, and a neuron is read if any live row keeps it. The
    neurons whose score exceeds the layer's threshold are kept, or those with the k largest scores if not
    `by_threshold`.
    """

    sparsity: Decimal
    gated: bool
    share: str
    by_threshold: bool

    def __post_init__(self) -> None:
        require_one_of(SHARES, share=self.share)


@final
class TokenPruner(Pruner):
    """Keeps FFN neurons, selected in every decode step (CATS, EveryToken)."""

    schedule = ALWAYS_SPARSE
    ready = True
    sources: Sequence[Tensor] = ()
    state_bytes = 0

    def __init__(self, rule: TokenRule, blocks: Blocks, threshold: Tensor | None = None) -> None:
        """Sparse steps need `threshold` `[L]` if the rule is `by_threshold`.

        Without it, the pruner only computes scores.
        """
        self._rule, self._blocks = rule, blocks
        self._threshold: Sequence[float] | None = None if threshold is None else threshold.tolist()
        self.places = len(blocks.ffns)
        neurons, self._width = blocks.ffns[0].weights.gate.shape
        self._keep = 0 if rule.by_threshold else keep_count(rule.sparsity, neurons)

    def start(self, slots: int, meter: Meter) -> None:  # noqa: ARG002
        assert (self._threshold is not None) == self._rule.by_threshold, "a rule by thresholds needs them"
        self._meter = meter

    def prepare(self, planned: Pass) -> None:  # noqa: ARG002
        self._meter.drop()

    def commit(self, done: Pass, slot: Tensor) -> None:  # noqa: ARG002
        if not done.decode:
            return
        self._meter.commit()
        for ffn, layer in zip(self._blocks.ffns, self._blocks.layers, strict=True):
            size = ffn.weights.gate.numel()
            if done.mode is not Mode.SPARSE:
                self._meter.count(Site.GATE_UP, layer, 2 * size)
                self._meter.count(Site.DOWN, layer, size)
            else:  # the weights that are always read; the device counts the others
                self._meter.count(Site.GATE_UP, layer, size if self._rule.gated else 2 * size)

    def run(self, place: int, x: Tensor, now: Pass | None) -> Tensor:
        ffn, layer, weights = (
            self._blocks.ffns[place],
            self._blocks.layers[place],
            self._blocks.ffns[place].weights,
        )
        if now is None or now.mode is not Mode.SPARSE:
            return ffn.output(ffn.hidden(x))
        gate = weights.act(functional.linear(x, weights.gate, weights.gate_bias))
        z = gate * functional.linear(x, weights.up, weights.up_bias)
        # [T, F], or [1, F] if the rows share a mask
        keep = self._chosen(place, self._score(gate if self._rule.gated else z), now.slot >= 0)
        needed = keep.any(dim=0).sum() * self._width
        if self._rule.gated:
            self._meter.measured(Site.GATE_UP, layer).add_(needed)
        self._meter.measured(Site.DOWN, layer).add_(needed)
        return ffn.output(torch.where(keep.expand(x[..., 0].numel(), -1).view_as(z), z, 0))

    def scores(self, place: int, x: Tensor) -> Tensor:
        weights: FFNWeights = self._blocks.ffns[place].weights
        gate = weights.act(functional.linear(x, weights.gate, weights.gate_bias))
        return self._score(
            gate if self._rule.gated else gate * functional.linear(x, weights.up, weights.up_bias)
        )

    def key(self, planned: Pass) -> Hashable:
        return planned.mode

    def _score(self, activation: Tensor) -> Tensor:
        """Returns the scores `[T, F]` of activations `[..., F]`."""
        rows = activation.flatten(0, -2)
        rows = rows.to(score_dtype(rows))
        return (
            rows.abs()
            if self._rule.gated
            else relative(rows, torch.ones(len(rows), dtype=torch.bool, device=rows.device)).abs()
        )

    def _chosen(self, place: int, score: Tensor, live: Tensor) -> Tensor:
        """Returns the mask `[T, F]` bool, or `[1, F]` if the rows share it.

        Rows that are not `live` have no influence on a shared mask; masks of their own are empty.
        """
        if self._rule.share == "mean":
            score = torch.where(live[:, None], score, 0).sum(dim=0, keepdim=True) / live.sum().clamp(min=1)
        elif self._rule.share == "max":
            score = torch.where(live[:, None], score, -1).amax(dim=0, keepdim=True)
        keep = largest(score, self._keep) if self._threshold is None else score > self._threshold[place]
        return keep & live[:, None] if self._rule.share == "none" else keep
