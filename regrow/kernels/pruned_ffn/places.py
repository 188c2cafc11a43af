"""Which neuron lies at which place of a compact copy, and what a refresh has to move."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor


@final
class Places:
    """Neurons [k] by place. The order is free: one that stays keeps its place, a new one takes the place of one that left."""

    def __init__(self, neurons: int) -> None:
        self._neurons = neurons
        self.held = torch.empty(0, dtype=torch.int64)  # [k] neuron at each place; empty: none yet

    def forget(self) -> None:
        """Makes the next load a full one, so that a batch does not depend on the batch before it."""
        self.held = self.held[:0]

    def take(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Makes `index` [k] the neurons held: the places to write, and the neurons that belong there. After a set of the same size those
        that changed; otherwise all, in the order of the index."""
        if self.held.numel() != index.numel():
            self.held = index.clone()
            return torch.arange(index.numel()), index
        wanted = torch.zeros(self._neurons, dtype=torch.bool).index_fill_(0, index, True)
        places = (~wanted[self.held]).nonzero().squeeze(1)  # whose neuron left
        incoming = index[~torch.zeros_like(wanted).index_fill_(0, self.held, True)[index]]
        self.held[places] = incoming
        return places, incoming
