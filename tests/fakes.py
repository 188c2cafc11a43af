"""Stand-ins that drive a method without a model: FFNs with given activations, and a method of any parts."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from regrow.core import Blocks, FFNWeights, Mode, Site
from regrow.method.base import NeuronMethod
from regrow.selection.index_set import IndexSet
from regrow.session import Session


def same(x: Tensor) -> Tensor:
    """Return the argument. An FFN made of this function takes z itself as its input."""
    return x


@final
@dataclass(frozen=True)
class GivenFFN:
    """An FFN with hidden(z) = z and output(z) = z, so `Session.run(layer, z)` observes z itself."""

    weights: FFNWeights
    name: str = "given"
    hidden: Callable[[Tensor], Tensor] = same
    output: Callable[[Tensor], Tensor] = same


def given_blocks(layers: int, neurons: int, dtype: torch.dtype = torch.float64, width: int = 1) -> Blocks:
    """Return blocks that hold only FFNs, of F neurons and width D, with all weights one.

    Sparse steps take x [..., D].
    """
    ones = torch.ones(neurons, width, dtype=dtype)
    return blocks_of(
        [GivenFFN(FFNWeights(ones, ones, ones.t(), torch.nn.functional.silu)) for _ in range(layers)]
    )


def blocks_of(ffns: Sequence[GivenFFN]) -> Blocks:
    """Return blocks that hold only these FFNs."""
    each = [ffn.weights.gate.numel() for ffn in ffns]
    sizes = {Site.GATE_UP: [2 * size for size in each], Site.DOWN: each}
    return Blocks(range(len(ffns)), ffns, (), sizes, sizes)


@final
@dataclass(frozen=True)
class Parts(NeuronMethod):
    """The method that an IndexSet describes."""

    rule: IndexSet

    name: ClassVar[str] = "parts"
    summary: ClassVar[str] = "Any parts"
    source: ClassVar[str] = "-"

    def index_set(self) -> IndexSet:
        """Return the parts."""
        return self.rule


def forward(
    session: Session,
    slot: Tensor,
    run: Callable[[Mode], Any],
    *,
    prompt: bool = False,
    decode: bool = True,
    completed: Sequence[int] = (),
    finished: Tensor | None = None,
) -> Mode:
    """Plan a forward pass over tokens of these slots [T], run it with `run`, and commit all of its tokens."""
    planned = session.plan(slot, torch.zeros(len(slot), 1, dtype=torch.int64), prompt=prompt, decode=decode)
    with session.running(planned):
        run(planned.mode)
    session.commit(planned, completed=completed, finished=finished)
    return planned.mode


PATTERNS = [(1,), (1, 1, 1, 1), (3, 2, 1, 1, 1), (1,) * 16, (0,)]  # their norms are 1, 2, 4, 4 and 0
Activation = list[list[int]]  # [L][F] of one token, up to a power of two


def activation(rng: random.Random, layers: int, neurons: int) -> Activation:
    """Draw the z of one token: in each layer a pattern at random places with random signs."""
    rows = []
    for _ in range(layers):
        pattern = rng.choice([p for p in PATTERNS if len(p) <= neurons])
        values = [value * rng.choice((-1, 1)) for value in pattern] + [0] * (neurons - len(pattern))
        rng.shuffle(values)
        rows.append(values)
    return rows
