"""Queries, keys and values of a block in one matmul, as long as their linears are ordinary."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from regrow.adapter.plain import odd_linear


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
    """One linear whose weight [sum of out, D] is a copy, at an address that never changes."""

    def __init__(self, linears: list[nn.Linear]) -> None:
        self._linears = linears
        weights = [module.weight.detach() for module in linears]
        self._weight = torch.cat(weights)
        biased = any(module.bias is not None for module in linears)
        self._bias = self._weight.new_zeros(len(self._weight)) if biased else None
        self._sizes = [len(weight) for weight in weights]
        self.refresh()

    def __call__(self, x: Tensor) -> Tensor:
        return linear(x, self._weight, self._bias)

    def refresh(self) -> None:
        """Neither an address nor a version tells of a write to `weight.data`: so everything is copied again."""
        for module, weight in zip(self._linears, self._weight.split_with_sizes(self._sizes), strict=True):
            weight.copy_(module.weight.detach())
        for module, bias in zip(self._linears, () if self._bias is None else self._bias.split_with_sizes(self._sizes), strict=False):
            if module.bias is not None:
                bias.copy_(module.bias.detach())


def joined(linears: list[nn.Linear]) -> Projection:
    """One linear in the place of several; where one of them is not an ordinary linear (a method may have patched it), each for itself."""
    return Separate(linears) if any(map(odd_linear, linears)) else SideBySide(linears)
