"""Maps the places of a compact copy to neurons, and finds what a refresh has to copy.

A place is one of the k rows of the copy's gate and up, and the same column of its down.
"""

from __future__ import annotations

from typing import Final, final

import torch
from torch import Tensor

from regrow.kernels.cpu_library import LONG, POINTER, Kernel, check

_TAKE: Final = Kernel("take_places", POINTER, POINTER, LONG, *[POINTER] * 4)


@final
class Places:
    """The neuron at every place of a compact copy.

    The order is free. A neuron that stays retained keeps its place, and a new neuron takes the place of one
    that left.
    """

    def __init__(self, neurons: int) -> None:
        self._neurons = neurons
        self.held = torch.empty(0, dtype=torch.int64)  # [k] neuron at each place; empty before the first load

    def forget(self) -> None:
        """Makes the next load a full one, so that a batch does not depend on the previous batch."""
        self.held = self.held[:0]

    def take(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Makes `index` [k] the retained set. Returns the places to write, and the neuron for each of them.

        If the previous set had the same size, only changed places are returned; otherwise all, in the order
        of `index`. The compiled kernel raises ValueError if a neuron occurs twice, and TypeError if `index`
        is not int64.
        """
        if self.held.numel() != index.numel():
            self.held = index.clone(memory_format=torch.contiguous_format)
            return torch.arange(index.numel(), device=index.device), index.contiguous()
        if _TAKE.get(torch.int64) is not None:
            return self._compiled(index)
        wanted = torch.zeros(self._neurons, dtype=torch.bool).index_fill_(0, index, True)
        places = (~wanted[self.held]).nonzero().squeeze(1)  # places whose neuron left
        incoming = index[~torch.zeros_like(wanted).index_fill_(0, self.held, True)[index]]
        self.held[places] = incoming
        return places, incoming

    def _compiled(self, index: Tensor) -> tuple[Tensor, Tensor]:
        check(torch.int64, index)
        index, changed = index.contiguous(), index.new_empty(2, len(index))
        marks, count = index.new_zeros(self._neurons, dtype=torch.uint8), index.new_empty(())
        addresses = (tensor.data_ptr() for tensor in (marks, *changed, count))
        _TAKE[torch.int64](self.held.data_ptr(), index.data_ptr(), len(index), *addresses)
        if count < 0:
            raise ValueError("a neuron is retained twice")
        places, incoming = changed[:, : int(count)]
        return places, incoming
