"""Basic types that all other modules share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol, final

import torch
from torch import Tensor


def score_dtype(tensor: Tensor) -> torch.dtype:
    """Returns the dtype for scores of these weights or activations: float32, or float64 for float64."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


@final
class Mode(Enum):
    """What the FFNs do in one forward pass."""

    DENSE = auto()  # exact output; no activations are recorded
    OBSERVE = auto()  # exact output; activations are recorded for the scores
    SPARSE = auto()  # only what the method keeps is computed


@final
class Surface(Enum):
    """The part of a model that a method changes."""

    NOTHING = auto()
    NEURONS = auto()  # neurons of the FFNs
    INPUTS = auto()  # inputs of the linear layers of the blocks, attention included
    WEIGHTS = auto()  # weights of the same linear layers, changed once before the run


@final
class Site(Enum):
    """A group of linear layers of a block that share their input."""

    QKV = "qkv"
    O = "o"  # noqa: E741
    GATE_UP = "gate_up"
    DOWN = "down"


FFN_SITES = Site.GATE_UP, Site.DOWN
Reduce = Callable[[Tensor], Tensor]  # sums a tensor over the shards of a model; it may overwrite its argument
Sizes = Mapping[Site, Sequence[int]]  # number of weight elements at a site, for each layer


@final
@dataclass(frozen=True)
class FFNWeights:
    """Weights of one gated FFN, as views of the model's own tensors.

    The FFN computes y = down (act(gate x + gate_bias) * (up x + up_bias)) + down_bias.
    """

    gate: Tensor  # [F, D]
    up: Tensor  # [F, D]
    down: Tensor  # [D, F]
    act: Callable[[Tensor], Tensor]
    gate_bias: Tensor | None = None  # [F]
    up_bias: Tensor | None = None  # [F]
    down_bias: Tensor | None = None  # [D]


class FFN(Protocol):
    """Interface of one gated FFN, y = output(hidden(x)), which the adapter finds in a model."""

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
    """One linear layer of a block, y = W x + b. Its tensors are views of the model's own."""

    name: str  # as in model.named_modules()
    layer: int
    site: Site
    weight: Tensor  # [out, in]
    bias: Tensor | None  # [out]


@final
@dataclass(frozen=True)
class Blocks:
    """The parts of a model that a method may change. Layers are numbered from 0.

    A model may be split into shards (tensor parallelism). The FFNs then hold a share of the neurons, and the
    outputs of their weights sum to that of the layer. Only methods that keep masks of neurons support this.
    """

    layers: Sequence[int]  # the layers that are not skipped
    ffns: Sequence[FFN]  # one for each entry of `layers`
    linears: Sequence[Linear]  # in `layers`, at the method's sites; empty unless it changes linear layers
    sizes: Sizes  # of all layers, skipped ones included
    filled: Sizes  # the same without the weights that a weight-pruning method has zeroed
    reduce: Reduce | None = None  # None if the model is whole


@final
@dataclass(frozen=True)
class Spec:
    """Sizes of a method's buffers: L pruned layers, F neurons in each, S slots.

    A slot is one row of the per-sample memory.
    """

    layers: int
    neurons: int
    slots: int
    device: torch.device
    dtype: torch.dtype  # of scores: float32, or float64 for a float64 model


@final
class Role(Enum):
    """What a forward pass is for."""

    SCHEDULED = auto()  # an ordinary pass, whose mode the schedule chooses
    DRAFT = auto()  # proposes tokens; sparse as soon as the method can prune, discarded unless committed
    VERIFY = auto()  # checks proposed tokens densely; committing it ends a phase
    DENSE = auto()  # an exact step of which a method takes no notice: it is not scored, and ends no phase


@final
@dataclass(frozen=True)
class Pass:
    """A planned forward pass over B rows of w tokens each, T = B w. It changes no state until committed."""

    mode: Mode
    slot: Tensor  # [T] int64, slot of each token; -1 for tokens that never count (padding, ended rows)
    position: Tensor  # [B, w] int64, position of each token in its row's own text, from 0; -1 for padding
    prompt: bool  # the pass holds prompt tokens: it is exact for every row
    decode: bool  # the pass holds decode rows: committing it advances the clock
    role: Role = Role.SCHEDULED

    @property
    def width(self) -> int:
        """Number of tokens in each row, w."""
        return self.position.shape[1]

    def slots_of(self, kept: Tensor) -> Tensor:
        """Returns `slot` [T], with -1 for tokens beyond the first `kept[slot]` of their row."""
        number = torch.arange(self.width, device=kept.device).repeat(len(self.position))
        return torch.where((self.slot >= 0) & (number < kept[self.slot.clamp(min=0)]), self.slot, -1)


@final
@dataclass(frozen=True)
class Rows:
    """The slots that take part when a phase ends (fold) or a mask is selected, as masks [S] bool."""

    ended: Tensor  # slots whose phase ends now
    occupied: Tensor  # slots that hold a sample
    finished: Tensor  # slots that have generated their EOS
