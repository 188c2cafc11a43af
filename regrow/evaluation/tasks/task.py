"""Tasks: prompts with gold answers, and the name of the grader that compares answers with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from typing import Protocol, Self, TypeVar, final

from regrow.errors import UsageError
from regrow.run_config import digest

T = TypeVar("T")
QUESTION = "{question}"  # the place of the question in a prompt template


@final
@dataclass(frozen=True)
class Item:
    """One prompt of a task, with its gold answer."""

    id: str
    prompt: str  # what the user would type, before any chat template
    gold: str


@final
@dataclass(frozen=True)
class Task:
    """Prompts in a fixed order, how they are put to the model, and how its answers are graded."""

    name: str
    items: tuple[Item, ...]  # at least one
    grader: str  # name in `regrow.evaluation.graders.GRADERS`
    template: str = QUESTION  # the prompt, with `{question}` where the question goes
    system: str = ""  # system message; empty: none
    data_sha256: str = ""  # digest of the data; empty if the task makes its own questions
    warning: str = ""  # a sentence for the user about the data; empty: none

    @property
    def generated(self) -> bool:
        """True if the task makes its own questions, and reads no data."""
        return not self.data_sha256

    def first(self, limit: int | None) -> Self:
        """Returns the task with its first `limit` items (None: all).

        Raises UsageError if there are not so many.
        """
        count = len(self.items)
        if limit is not None and not 1 <= limit <= count:
            raise UsageError(f"limit must be from 1 to {count}, the prompts of {self.name}, not {limit}")
        return replace(self, items=self.items[:limit])


def first_of_each(tasks: Sequence[Task], limit: int | None) -> list[Task]:
    """Returns the tasks with their first `limit` items (None: all).

    Of several tasks, one with fewer items is taken whole; `Task.first` refuses that for a single one.
    """
    if limit is None or len(tasks) == 1:
        return [task.first(limit) for task in tasks]
    return [task.first(min(limit, len(task.items))) for task in tasks]


class TaskSource(Protocol):
    """Something that a task can be loaded from, by name."""

    @property
    def name(self) -> str: ...

    @property
    def summary(self) -> str: ...

    def load(self, request: TaskRequest) -> Task:
        """Returns the whole task. Raises UsageError if its data cannot be had or are not what they should."""


@final
@dataclass(frozen=True)
class TaskRequest:
    """What a user asks of a task beside its name."""

    data_dir: str | None = None  # folder with the data of benchmarks; None: the hub
    template: str | None = None  # prompt template; None: the task's own
    system: str = ""  # system message; empty: none

    def __post_init__(self) -> None:
        """Raises UsageError for a template without a place for the question."""
        if self.template is not None and QUESTION not in self.template:
            raise UsageError(
                f"the prompt template {self.template!r:.80} does not say where the question goes; "
                f"write {QUESTION} there"
            )


def make_items(questions: Sequence[tuple[str, str, str]], template: str) -> tuple[Item, ...]:
    """Returns items from (id, question, gold). The question is put into the template as it is."""
    return tuple(Item(name, template.replace(QUESTION, question), gold) for name, question, gold in questions)


def fingerprint(items: Sequence[Item]) -> str:
    """Returns the sha256 of ids, prompts and gold answers, in order."""
    return digest([astuple(item) for item in items])


def batches(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """Splits items into batches, in the order of the task. The last batch may be smaller."""
    return [items[start : start + size] for start in range(0, len(items), size)]
