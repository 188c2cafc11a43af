"""What a task is: prompts with their golds, and how an answer is graded."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import ClassVar, TypeVar, final

from regrow.errors import UsageError
from regrow.records import Grade
from regrow.run_config import digest

T = TypeVar("T")


@final
@dataclass(frozen=True)
class Item:
    id: str
    prompt: str  # what the user would type, before any chat template
    gold: str


class Task(ABC):
    """Stateless: the same items in the same order whenever they are asked for."""

    name: ClassVar[str]
    summary: ClassVar[str]
    size: ClassVar[int]  # prompts

    @abstractmethod
    def items(self, count: int) -> list[Item]:
        """The first `count` items, 1 <= count <= size."""

    @abstractmethod
    def grade(self, item: Item, text: str) -> Grade:
        """Pure: the marks of a completion, its special tokens removed."""

    def load(self, limit: int | None) -> list[Item]:
        """The first `limit` items, or all. Raises UsageError for a limit the task cannot meet."""
        count = self.size if limit is None else limit
        if not 1 <= count <= self.size:
            raise UsageError(f"limit must be from 1 to {self.size}, the prompts of {self.name}, not {limit}")
        return self.items(count)


def fingerprint(items: list[Item]) -> str:
    """sha256 of ids, prompts and golds, in order."""
    return digest([astuple(item) for item in items])


def batches(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """Fixed batches in the order of the task; the last may be smaller."""
    return [items[start : start + size] for start in range(0, len(items), size)]
