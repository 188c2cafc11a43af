"""The vocabulary every other module shares."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol, final

import torch
from torch import Tensor


def score_dtype(of: Tensor) -> torch.dtype:
    """What scores of such weights or activations are computed in."""
    return torch.float64 if of.dtype == torch.float64 else torch.float32


@final
class Mode(Enum):
    """What the FFNs do in one forward pass."""

    DENSE = auto()  # exact output, nothing recorded
    OBSERVE = auto()  # exact output, activations recorded
    SPARSE = auto()  # retained neurons only


@final
class Surface(Enum):
    """What of a model a method changes."""

    NOTHING = auto()
    NEURONS = auto()  # of the FFNs
    INPUTS = auto()  # of the linears of the blocks, attention included
    WEIGHTS = auto()  # of the same linears, once, before the run


@final
class Site(Enum):
    """The linears of a block, grouped by the input they share."""

    QKV = "qkv"
    O = "o"  # noqa: E741
    GATE_UP = "gate_up"
    DOWN = "down"


FFN_SITES = Site.GATE_UP, Site.DOWN
Sizes = Mapping[Site, Sequence[int]]  # weight elements of every layer


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


class FFN(Protocol):
    """One gated FFN, y = output(hidden(x)), as the adapter finds it."""

    @property
    def name(self) -> str: ...
    @property
    def weights(self) -> FFNWeights: ...
    @property
    def hidden(self) -> Callable[[Tensor], Tensor]: ...
    @property
    def output(self) -> Callable[[Tensor], Tensor]: ...


@final
@dataclass(frozen=True)
class Linear:
    """One linear of a block, y = W x + b, as the model stores it (views, nothing copied)."""

    name: str  # as in model.named_modules()
    layer: int
    site: Site
    weight: Tensor  # [out, in]
    bias: Tensor | None  # [out]


@final
@dataclass(frozen=True)
class Blocks:
    """What of a model a method may act on: the layers that are not skipped. Layers are numbered from 0."""

    layers: Sequence[int]  # of the FFNs
    ffns: Sequence[FFN]
    linears: Sequence[Linear]
    sizes: Sizes  # of all layers, skipped ones included
    filled: Sizes  # those of them that are not zero by a method's doing


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
class Step:
    """One forward pass of T tokens."""

    mode: Mode
    decode: bool  # it holds decode rows, so it is counted
    slot: Tensor  # [T] int64 memory row of each token, -1 where it is not live (padding, ended rows)


@final
@dataclass(frozen=True)
class Rows:
    """Who takes part in a fold or a selection, [S] bool each."""

    ended: Tensor  # the phase of these slots ends now
    occupied: Tensor  # these slots hold a sample
    finished: Tensor  # these have generated their EOS
