from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from regrow.core import Blocks, FFNWeights, score_dtype
from regrow.method.base import NeuronMethod
from regrow.selection.budget import Sparsity, parse_sparsity
from regrow.selection.index_set import IndexSet
from regrow.selection.schedule import ALWAYS_SPARSE, unless_zero


@final
@dataclass(frozen=True)
class Magnitude(NeuronMethod):
    """Keeps the FFN neurons with the largest weights, the same ones in every decode step and for every input.

    The score of neuron j is `sqrt(||W_g[j]||^2 + ||W_1[j]||^2 + ||W_2[:, j]||^2)`. The method is a control: a
    comparison with it shows what activation scores gain. Prompts are processed densely.

    Args:
        sparsity: Target sparsity rho in [0, 1), the share of neurons that a sparse step leaves out of each
            layer. A float, a `Decimal` or a string. 0 is the dense model.

    Raises:
        UsageError: If a parameter has the wrong type or lies outside of its range.

    Example:
        ```python
        method = regrow.Magnitude(sparsity=0.5)
        with regrow.prune(model, method) as session:
            tokens = model.generate(**batch, max_new_tokens=512)
        ```
    """

    sparsity: Sparsity = 0.5

    name: ClassVar[str] = "magnitude"
    summary: ClassVar[str] = "Control: the neurons with the largest weights, for every input"
    source: ClassVar[str] = "-"

    def index_set(self) -> IndexSet:
        sparsity = parse_sparsity(self.sparsity)
        return IndexSet(sparsity, unless_zero(sparsity, ALWAYS_SPARSE))

    def scores(self, blocks: Blocks) -> Tensor:
        return torch.stack([_norms(ffn.weights) for ffn in blocks.ffns])


def _norms(weights: FFNWeights) -> Tensor:
    """Returns the norm of each neuron's weights in gate, up and down together, `[F]`."""
    parts = [
        torch.linalg.vector_norm(rows, dim=1, dtype=score_dtype(weights.gate))
        for rows in (weights.gate, weights.up, weights.down.t())
    ]
    norms: Tensor = torch.linalg.vector_norm(torch.stack(parts), dim=0)
    return norms
