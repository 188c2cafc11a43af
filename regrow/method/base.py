"""What a user configures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict
from typing import Any, ClassVar

from regrow.method.index_set import IndexSet


class Method(ABC):
    """A frozen dataclass of plain parameters; everything else follows from `index_set`."""

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]

    @abstractmethod
    def index_set(self) -> IndexSet:
        """The parts it is made of: scores, memory, aggregate, budget, schedule. Raises UsageError on bad parameters."""

    def __post_init__(self) -> None:
        self.index_set()

    def describe(self) -> dict[str, Any]:
        """Name and parameters, ready for JSON; the same method gives the same text however its sparsity was written."""
        parameters: dict[str, Any] = asdict(self)  # type: ignore[call-overload]
        if "sparsity" in parameters:
            parameters["sparsity"] = float(self.index_set().sparsity)
        return {"name": self.name, **parameters}
