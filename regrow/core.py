"""The vocabulary every other module shares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import final

import torch
from torch import Tensor


@final
class Mode(Enum):
    """What the FFNs do in one forward pass."""

    DENSE = auto()  # exact output, nothing recorded
    OBSERVE = auto()  # exact output, activations recorded
    SPARSE = auto()  # retained neurons only


@final
@dataclass(frozen=True)
class FFNWeights:
    """One gated FFN, y = down (act(gate x + gate_bias) * (up x + up_bias)) + down_bias, as the model stores it (views, nothing copied)."""

    gate: Tensor  # [F, D]
    up: Tensor  # [F, D]
    down: Tensor  # [D, F]
    act: Callable[[Tensor], Tensor]
    gate_bias: Tensor | None = None  # [F]
    up_bias: Tensor | None = None  # [F]
    down_bias: Tensor | None = None  # [D]


@final
@dataclass(frozen=True)
class Spec:
    """The shape of what a method works on: L pruned layers, F neurons each, S slots (memory rows, one a sample)."""

    layers: int
    neurons: int
    slots: int
    device: torch.device
    dtype: torch.dtype  # of scores: float32, or float64 for a float64 model


@final
@dataclass(frozen=True)
class Rows:
    """Who takes part in a fold or a selection."""

    ended: Tensor  # [S] bool: the phase of these slots ends now
    counted: Tensor  # [S] bool: these slots count in the selection
