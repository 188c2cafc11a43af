from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final, final

from regrow.errors import require_one_of
from regrow.method.base import NeuronMethod
from regrow.selection.budget import Sparsity, parse_sparsity
from regrow.selection.index_set import IndexSet
from regrow.selection.schedule import ALWAYS_SPARSE, unless_zero

_AGGREGATES: Final = {"max": "max", "sum": "mean"}  # the mean ranks neurons as the sum does


@final
@dataclass(frozen=True)
class Griffin(NeuronMethod):
    """Keeps the top-k FFN neurons of each layer, selected once from the prompt, for the whole answer.

    The prompt is processed densely, and every decode step is sparse. Source: Dong et al. 2024,
    "Prompt-prompted Adaptive Structured Pruning for Efficient LLM Generation", github.com/hdong920/GRIFFIN.

    Args:
        sparsity: Target sparsity rho in [0, 1), the share of neurons that a sparse step leaves out of each
            layer. A float, a `Decimal` or a string. 0 is the dense model.
        aggregate: How the scores of the samples of a batch are combined: `"max"` or `"sum"`.

    Raises:
        UsageError: If a parameter has the wrong type or lies outside of its range.

    Example:
        ```python
        method = regrow.Griffin(sparsity=0.5)
        with regrow.prune(model, method) as session:
            tokens = model.generate(**batch, max_new_tokens=512)
        ```
    """

    sparsity: Sparsity = 0.5
    aggregate: str = "max"

    name: ClassVar[str] = "griffin"
    summary: ClassVar[str] = "Static: neurons chosen once, from the prompt"
    source: ClassVar[str] = "Dong et al. 2024, github.com/hdong920/GRIFFIN"

    def index_set(self) -> IndexSet:
        require_one_of(_AGGREGATES, aggregate=self.aggregate)
        sparsity = parse_sparsity(self.sparsity)
        return IndexSet(sparsity, unless_zero(sparsity, ALWAYS_SPARSE), aggregate=_AGGREGATES[self.aggregate])
