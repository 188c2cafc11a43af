"""Masked linear layers that share their input and mask, fused into one (GPU)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from regrow.kernels.pruned_linear.input_major import InputMajorLinear
from regrow.kernels.pruned_linear.threshold import AboveThreshold


@final
class SideBySideLinears:
    """One `InputMajorLinear` for several layers, with their outputs side by side.

    On a GPU, separate launches would take longer than some of the layers need to read their weights.
    """

    def __init__(self, weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> None:
        self._widths = [len(weight) for weight in weights]
        laid = [
            weight.new_zeros(len(weight)) if bias is None else bias
            for weight, bias in zip(weights, biases, strict=True)
        ]
        self._joint = InputMajorLinear(
            torch.cat([*weights]), torch.cat(laid) if any(bias is not None for bias in biases) else None
        )

    @property
    def state_bytes(self) -> int:
        """Bytes allocated in addition to the model's own weights."""
        return self._joint.state_bytes

    def __call__(self, x: Tensor, keep: Tensor | AboveThreshold) -> Sequence[Tensor]:
        """Computes y [..., out] of every layer from the kept inputs of x [..., in]: views of one tensor."""
        return self._joint(x, keep).split_with_sizes(self._widths, dim=-1)
