from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from regrow.method.base import Method
from regrow.method.budget import Sparsity, parse_sparsity
from regrow.method.index_set import IndexSet
from regrow.method.schedule import ALWAYS_DENSE, Schedule


@final
@dataclass(frozen=True)
class Griffin(Method):
    """Neurons chosen once, from the prompt, and kept for the whole answer; over a batch the maximum of the samples' scores."""

    sparsity: Sparsity = 0.5

    name: ClassVar[str] = "griffin"
    summary: ClassVar[str] = "Static: neurons chosen once, from the prompt"
    source: ClassVar[str] = "Dong et al. 2024, github.com/hdong920/GRIFFIN"

    def index_set(self) -> IndexSet:
        sparsity = parse_sparsity(self.sparsity)
        return IndexSet(sparsity, Schedule(init_steps=0, explore_steps=0, period=1) if sparsity else ALWAYS_DENSE)
