from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from regrow.core import Blocks, Surface
from regrow.method.base import Method
from regrow.pruning.pruner import DensePruner, Pruner
from regrow.selection.schedule import ALWAYS_DENSE


@final
@dataclass(frozen=True)
class Dense(Method):
    """Keeps everything in every step: the unpruned model, the baseline of every comparison.

    The model runs through the same decode loop as with the other methods. There are no parameters.

    Example:
        ```python
        method = regrow.Dense()
        with regrow.prune(model, method) as session:
            tokens = model.generate(**batch, max_new_tokens=512)
        ```
    """

    name: ClassVar[str] = "dense"
    summary: ClassVar[str] = "The unpruned model, the baseline of every comparison"
    source: ClassVar[str] = "-"
    surface: ClassVar[Surface] = Surface.NOTHING

    def check(self) -> None:
        pass

    def pruner(self, blocks: Blocks, calibration: Mapping[str, Tensor]) -> Pruner:  # noqa: ARG002
        return DensePruner(ALWAYS_DENSE)
