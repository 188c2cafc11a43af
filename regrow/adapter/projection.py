"""Computes the queries, keys and values of a block in one matmul, if their linear layers are ordinary."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from regrow.adapter.plain import odd_linear
from regrow.kernels import LaidOutWeight, MatmulChoice


class Projection(ABC):
    """Several linear layers of one input x [..., D], with their outputs side by side."""

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def refresh(self) -> None:
        """Copies the current values of the linear layers' weights."""


@final
class Separate(Projection):
    """Calls each linear layer by itself."""

    def __init__(self, linears: list[nn.Linear]) -> None:
        self._linears = linears

    def __call__(self, x: Tensor) -> Tensor:
        return torch.cat([module(x) for module in self._linears], dim=-1)

    def refresh(self) -> None:
        """Does nothing: the linear layers are called themselves."""


@final
class SideBySide(Projection):
    """One matmul with a joint weight [sum of out, D].

    The weight is a copy at a fixed address, or laid out (`LaidOut`).
    """

    def __init__(self, linears: list[nn.Linear]) -> None:
        self.linears = linears
        self.sizes = [len(module.weight) for module in linears]
        weight = linears[0].weight.detach()
        biased = any(module.bias is not None for module in linears)
        self._bias = weight.new_zeros(sum(self.sizes)) if biased else None
        self._weight: Tensor | LaidOutWeight = weight.new_empty(sum(self.sizes), weight.shape[1])
        self.refresh()

    def __call__(self, x: Tensor) -> Tensor:
        if isinstance(self._weight, LaidOutWeight):
            return self._weight(x, self._bias)
        return linear(x, self._weight, self._bias)

    def refresh(self) -> None:
        """Copies all weights and biases again, except for a weight that is laid out.

        A write to `weight.data` changes neither address nor version, so it cannot be detected.
        """
        if isinstance(self._weight, Tensor):
            for module, weight in zip(self.linears, self._weight.split_with_sizes(self.sizes), strict=True):
                weight.copy_(module.weight.detach())
        for module, bias in zip(
            self.linears, () if self._bias is None else self._bias.split_with_sizes(self.sizes), strict=False
        ):
            if module.bias is not None:
                bias.copy_(module.bias.detach())

    def lay_out(self, matmul: MatmulChoice) -> LaidOutWeight:
        """Replaces the copy by the weights of the linear layers in oneDNN's layout."""
        self._weight = torch.empty(0)  # frees the copy first
        self._weight = LaidOutWeight(
            torch.cat([module.weight.detach() for module in self.linears]), matmul.fewest, matmul.most
        )
        return self._weight

    def lay_back(self) -> None:
        """Replaces the laid-out weight by a copy of the linear layers' current weights."""
        first = self.linears[0].weight
        self._weight = first.new_empty(sum(self.sizes), first.shape[1]).detach()
        self.refresh()


def joined(linears: list[nn.Linear]) -> Projection:
    """Returns one projection for several linear layers.

    If one of them is not an ordinary linear layer (a method may have patched it), each is called by itself.
    """
    return Separate(linears) if any(map(odd_linear, linears)) else SideBySide(linears)
