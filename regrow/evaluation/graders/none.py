"""Prompts without gold answers."""

from __future__ import annotations

from typing import ClassVar, final

from regrow.evaluation.graders.grader import Grader
from regrow.records import Grade


@final
class NoGrader(Grader):
    """Gives no marks at all."""

    name: ClassVar[str] = "none"
    summary: ClassVar[str] = "no grading: the prompts have no gold answers"

    def grade(self, gold: str, text: str) -> Grade:  # noqa: ARG002 - there is nothing to compare
        return Grade(())

    def check_gold(self, gold: str) -> str | None:  # noqa: ARG002 - any gold will do
        return None
