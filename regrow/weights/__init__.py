"""Weights pruned once, before any decoding: what stays of a matrix (pattern), what decides it, and the pass over the layers (layerwise)."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor


class WeightPruner(ABC):
    """One linear about to be pruned: made from its weight [out, in], shown its inputs, then asked once for what stays."""

    @abstractmethod
    def add(self, x: Tensor) -> None:
        """Takes in the inputs x [T, in] of one calibration sequence."""

    @abstractmethod
    def prune(self, name: str) -> Tensor:
        """The pruned weight [out, in], a new tensor of the weight's dtype, once at least one sequence was added.

        Errors call the linear `name`: UsageError where its shape does not fit the pattern, RegrowError where the inputs allow no answer.
        """
