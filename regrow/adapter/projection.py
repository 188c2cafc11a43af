"""Queries, keys and values of a block in one matmul, as long as their linears are ordinary."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from regrow.adapter.plain import odd_linear
from regrow.kernels import LaidOutWeight, MatmulChoice


class Projection(ABC):
    """Several linears of one input x [..., D], their outputs side by side."""

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def refresh(self) -> None:
        """Takes over the values that the linears have now."""


@final
class Separate(Projection):
    """Each linear for itself."""

    def __init__(self, linears: list[nn.Linear]) -> None:
        self._linears = linears

    def __call__(self, x: Tensor) -> Tensor:
        return torch.cat([module(x) for module in self._linears], dim=-1)

    def refresh(self) -> None:
        """The linears are called themselves."""


@final
class SideBySide(Projection):
    """One linear whose weight [sum of out, D] is a copy, at an address that never changes, or laid out (`LaidOut`)."""

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
        """Neither an address nor a version tells of a write to `weight.data`: so everything is copied again. What is laid out stays."""
        if isinstance(self._weight, Tensor):
            for module, weight in zip(self.linears, self._weight.split_with_sizes(self.sizes), strict=True):
                weight.copy_(module.weight.detach())
        for module, bias in zip(
            self.linears, () if self._bias is None else self._bias.split_with_sizes(self.sizes), strict=False
        ):
            if module.bias is not None:
                bias.copy_(module.bias.detach())

    def lay_out(self, matmul: MatmulChoice) -> LaidOutWeight:
        """Takes the weights of the linears in oneDNN's layout, in the place of the copy."""
        self._weight = torch.empty(0)  # the memory of the copy goes first
        self._weight = LaidOutWeight(
            torch.cat([module.weight.detach() for module in self.linears]), matmul.fewest, matmul.most
        )
        return self._weight

    def lay_back(self) -> None:
        """The copy again, of the weights that the linears have now."""
        first = self.linears[0].weight
        self._weight = first.new_empty(sum(self.sizes), first.shape[1]).detach()
        self.refresh()


def joined(linears: list[nn.Linear]) -> Projection:
    """One linear in the place of several; where one of them is not an ordinary linear (a method may have patched it), each for itself."""
    return Separate(linears) if any(map(odd_linear, linears)) else SideBySide(linears)
