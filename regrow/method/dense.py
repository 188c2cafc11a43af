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
    """The unpruned model through the same loop: the baseline of every comparison."""

    name: ClassVar[str] = "dense"
    summary: ClassVar[str] = "The unpruned model, the baseline of every comparison"
    source: ClassVar[str] = "-"
    surface: ClassVar[Surface] = Surface.NOTHING

    def check(self) -> None:
        pass

    def pruner(self, blocks: Blocks, calibration: Mapping[str, Tensor]) -> Pruner:  # noqa: ARG002
        return DensePruner(ALWAYS_DENSE)
