from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from regrow.core import Blocks, score_dtype
from regrow.errors import UsageError
from regrow.method.base import NeuronMethod
from regrow.selection.budget import Sparsity, parse_sparsity
from regrow.selection.index_set import IndexSet
from regrow.selection.schedule import ALWAYS_SPARSE, unless_zero


@final
@dataclass(frozen=True)
class RandomNeurons(NeuronMethod):
    """Keeps FFN neurons drawn at random from a seed, the same ones in every decode step and for every input.

    Every layer has its own draw. The method is a control: a comparison with it shows what activation scores
    gain. Prompts are processed densely.

    Args:
        sparsity: Target sparsity rho in [0, 1), the share of neurons that a sparse step leaves out of each
            layer. A float, a `Decimal` or a string. 0 is the dense model.
        seed: Seed of the random generator, an integer of at least 0.

    Raises:
        UsageError: If a parameter has the wrong type or lies outside of its range.

    Example:
        ```python
        method = regrow.RandomNeurons(sparsity=0.5, seed=0)
        with regrow.prune(model, method) as session:
            tokens = model.generate(**batch, max_new_tokens=512)
        ```
    """

    sparsity: Sparsity = 0.5
    seed: int = 0

    name: ClassVar[str] = "random"
    summary: ClassVar[str] = "Control: neurons drawn at random from a seed"
    source: ClassVar[str] = "-"

    def index_set(self) -> IndexSet:
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise UsageError(f"seed must be a whole number of at least 0, not {self.seed!r}")
        sparsity = parse_sparsity(self.sparsity)
        return IndexSet(sparsity, unless_zero(sparsity, ALWAYS_SPARSE))

    def scores(self, blocks: Blocks) -> Tensor:
        gate = blocks.ffns[0].weights.gate
        drawn = torch.rand(
            len(blocks.ffns),
            gate.shape[0],
            generator=torch.Generator().manual_seed(self.seed),
            dtype=torch.float64,
        )
        return drawn.to(gate.device, score_dtype(gate))
