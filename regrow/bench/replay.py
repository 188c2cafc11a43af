"""Masks that change as much as on real text, for models with random weights."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

SEED: Final = 0


def replayed(layers: int, neurons: int, keep: int, *, turnover: float, selections: int) -> list[Tensor]:
    """Returns scores [L, F] for each selection of a batch: 1 for the `keep` neurons to retain, 0 elsewhere.

    Each layer has a queue of its neurons in random order. A selection retains the first `keep` neurons of the
    queue. Then the first `turnover * keep` neurons move to its end.
    """
    generator = torch.Generator().manual_seed(SEED)
    change = round(turnover * keep)
    drawn: list[Tensor] = []
    order = torch.stack([torch.randperm(neurons, generator=generator) for _ in range(layers)])
    for _ in range(selections):
        drawn.append(torch.zeros(layers, neurons).scatter_(1, order[:, :keep], 1.0))
        order = torch.cat([order[:, change:], order[:, :change]], dim=1)
    return drawn
