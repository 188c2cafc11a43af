from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import ClassVar, final

from regrow.method.base import Method
from regrow.method.index_set import IndexSet
from regrow.method.schedule import ALWAYS_DENSE


@final
@dataclass(frozen=True)
class Dense(Method):
    """The unpruned model through the same loop: the baseline of every comparison."""

    name: ClassVar[str] = "dense"
    summary: ClassVar[str] = "The unpruned model, the baseline of every comparison"
    source: ClassVar[str] = "-"

    def index_set(self) -> IndexSet:
        return IndexSet(Decimal(0), ALWAYS_DENSE)
