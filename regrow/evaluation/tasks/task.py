"""The interface of tasks: prompts with gold answers, and the grading of completions."""

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
    """One prompt of a task, with its gold answer."""

    id: str
    prompt: str  # what the user would type, before any chat template
    gold: str


class Task(ABC):
    """A set of prompts and a grader of their answers. `load` returns the same items in the same order."""

    name: ClassVar[str]
    summary: ClassVar[str]
    size: ClassVar[int]  # number of prompts

    @abstractmethod
    def items(self, count: int) -> list[Item]:
        """Returns the first `count` items, 1 <= count <= size."""

    @abstractmethod
    def grade(self, item: Item, text: str) -> Grade:
        """Grades a completion without special tokens. The grade depends on the arguments alone."""

    def load(self, limit: int | None) -> list[Item]:
        """Returns the first `limit` items (None: all). Raises UsageError if there are not so many."""
        count = self.size if limit is None else limit
        if not 1 <= count <= self.size:
            raise UsageError(f"limit must be from 1 to {self.size}, the prompts of {self.name}, not {limit}")
        return self.items(count)


def fingerprint(items: list[Item]) -> str:
    """Returns the sha256 of ids, prompts and gold answers, in order."""
    return digest([astuple(item) for item in items])


def batches(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """Splits items into batches, in the order of the task. The last batch may be smaller."""
    return [items[start : start + size] for start in range(0, len(items), size)]
