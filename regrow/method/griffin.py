from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final, final

from regrow.errors import require_one_of
from regrow.method.base import NeuronMethod
from regrow.selection.budget import Sparsity, parse_sparsity
from regrow.selection.index_set import IndexSet
from regrow.selection.schedule import ALWAYS_SPARSE, unless_zero

_AGGREGATES: Final = {"max": "max", "sum": "mean"}  # a mean has the order of the sum


@final
@dataclass(frozen=True)
class Griffin(NeuronMethod):
    """Neurons chosen once, from the prompt, and kept for the whole answer; over a batch the maximum or the sum of the samples' scores."""

    sparsity: Sparsity = 0.5
    aggregate: str = "max"

    name: ClassVar[str] = "griffin"
    summary: ClassVar[str] = "Static: neurons chosen once, from the prompt"
    source: ClassVar[str] = "Dong et al. 2024, github.com/hdong920/GRIFFIN"

    def index_set(self) -> IndexSet:
        require_one_of(_AGGREGATES, aggregate=self.aggregate)
        sparsity = parse_sparsity(self.sparsity)
        return IndexSet(sparsity, unless_zero(sparsity, ALWAYS_SPARSE), aggregate=_AGGREGATES[self.aggregate])
