"""Prunes weights once, before any decoding.

`pattern` decides which weights of a matrix are kept, the pruners score the weights, and `layerwise` goes
through the layers of a model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor


class WeightPruner(ABC):
    """Prunes the weight `[out, in]` of one linear layer.

    `add` receives the inputs of the linear layer; `prune` is called once, after all inputs.
    """

    @abstractmethod
    def add(self, x: Tensor) -> None:
        """Adds the inputs x `[T, in]` of one calibration sequence."""

    @abstractmethod
    def prune(self, name: str) -> Tensor:
        """Returns the pruned weight `[out, in]`, a new tensor of the weight's dtype.

        At least one sequence must have been added. `name` is the name of the linear layer in error messages.
        Raises UsageError if the shape does not fit the pattern, RegrowError if the inputs give no valid
        result.
        """
