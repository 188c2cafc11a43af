"""Masks that change as much as they do on real text, on models whose weights are random."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final, final

import torch
from torch import Tensor

from regrow.core import Mode, Rows, Step
from regrow.pruning.base import Pruner
from regrow.pruning.meter import Meter
from regrow.pruning.neurons import NeuronPruner

SEED: Final = 0


@final
class ReplayPruner(Pruner):
    """A neuron pruner that does all its own work, but for the scores it selects by: drawn so that each selection after the first replaces
    the given share of the retained neurons."""

    def __init__(self, inner: NeuronPruner, turnover: float, selections: int) -> None:
        """`selections`: how many there will be at most; their scores are drawn before a batch."""
        self._inner, self._turnover, self._selections, self.schedule = inner, turnover, selections, inner.schedule

    def start(self, slots: int, meter: Meter) -> None:
        self._inner.start(slots, meter)
        state = self._inner.state
        assert state is not None
        layers, keep = state.index.shape
        self._scores = _scores(layers, state.kept.shape[1], keep, self._turnover, self._selections, state.memory)
        self._next = 0

    def join(self, joining: Tensor) -> None:
        self._inner.join(joining)

    def begin(self, step: Step) -> None:
        self._inner.begin(step)

    def run(self, place: int, x: Tensor, step: Step | None) -> Tensor:
        return self._inner.run(place, x, step)

    def scores(self, place: int, x: Tensor) -> Tensor:
        return self._inner.scores(place, x)

    def fold(self, rows: Rows) -> None:
        self._inner.fold(rows)

    def select(self, rows: Rows) -> bool:
        state = self._inner.state
        assert state is not None
        state.memory.copy_(self._scores[self._next][:, None].expand_as(state.memory))
        self._next += 1
        return self._inner.select(rows)

    @property
    def retained(self) -> list[Tensor]:
        return self._inner.retained

    def key(self, mode: Mode) -> Hashable:
        return self._inner.key(mode)

    @property
    def turnover(self) -> list[float]:
        return self._inner.turnover

    @property
    def state_bytes(self) -> int:
        return self._inner.state_bytes


def _scores(layers: int, neurons: int, keep: int, turnover: float, selections: int, like: Tensor) -> list[Tensor]:
    """[L, F] for each selection: 1 at the neurons to retain, 0 elsewhere. In each, those at the head of a queue of neurons are retained,
    the ones that go are put back at its end."""
    generator = torch.Generator().manual_seed(SEED)
    change = round(turnover * keep)
    drawn: list[Tensor] = []
    order = torch.stack([torch.randperm(neurons, generator=generator) for _ in range(layers)])
    for _ in range(selections):
        score = torch.zeros(layers, neurons).scatter_(1, order[:, :keep], 1.0)
        drawn.append(score.to(like.device, like.dtype))
        order = torch.cat([order[:, change:], order[:, :change]], dim=1)
    return drawn
