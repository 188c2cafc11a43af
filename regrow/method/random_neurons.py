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
    """Neurons drawn once by a seed, in every layer others: a control."""

    sparsity: Sparsity = 0.5
    seed: int = 0

    name: ClassVar[str] = "random"
    summary: ClassVar[str] = "Control: neurons drawn by a seed"
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
