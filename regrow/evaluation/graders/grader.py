"""The interface of graders: a gold answer and a completion give a grade."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from regrow.records import Grade, Mark


class Grader(ABC):
    """Grades completions. Every method is pure: its result depends on its arguments alone.

    A completion is decoded without special tokens. It may hold the end of a thinking part, `</think>`; its
    beginning may have been the end of the prompt.
    """

    name: ClassVar[str]
    summary: ClassVar[str]

    @abstractmethod
    def grade(self, gold: str, text: str) -> Grade:
        """Returns the marks of a completion, one for each problem that the prompt asks."""

    def check_gold(self, gold: str) -> str | None:
        """Returns what is wrong with a gold answer, or None if this grader can grade against it."""
        return None if gold.strip() else "the gold answer is empty"

    def restate(self, gold: str) -> str:
        """Returns a completion that states the gold answer, and that must therefore be right."""
        return f"\\boxed{{{gold}}}"


class OneMark(Grader):
    """A grader of prompts that ask one problem each."""

    def grade(self, gold: str, text: str) -> Grade:
        return Grade((Mark("", self.strict(gold, text), self.paper(gold, text)),))

    @abstractmethod
    def strict(self, gold: str, text: str) -> bool:
        """Returns whether the completion is right by the strict score."""

    def paper(self, gold: str, text: str) -> bool:
        """Returns whether the completion is right by the lenient score, here the strict one."""
        return self.strict(gold, text)
