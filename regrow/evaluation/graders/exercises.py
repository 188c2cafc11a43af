"""The exercises of the bundled model, whose prompts ask several problems each."""

from __future__ import annotations

from typing import ClassVar, final

from regrow.bundled.problems import LABELS, answers
from regrow.evaluation.graders.grader import Grader
from regrow.records import Grade, Mark


@final
class Exercises(Grader):
    """One mark for each problem. The gold answer has a line `family answer` for each."""

    name: ClassVar[str] = "exercises"
    summary: ClassVar[str] = (
        "several labelled problems a prompt, the answer of each after the last = of its line"
    )

    def grade(self, gold: str, text: str) -> Grade:
        given = answers(text)
        marks = []
        for label, line in zip(LABELS, gold.splitlines(), strict=False):
            family, _, answer = line.partition(" ")
            right = given.get(label) == answer
            marks.append(Mark(family, right, right))
        return Grade(tuple(marks))

    def check_gold(self, gold: str) -> str | None:
        lines = gold.splitlines()
        if not 1 <= len(lines) <= len(LABELS):
            return f"the gold answer has {len(lines)} lines, not 1 to {len(LABELS)}"
        if not all(family and answer for family, _, answer in (line.partition(" ") for line in lines)):
            return "each line of the gold answer must hold a family and an answer"
        return None

    def restate(self, gold: str) -> str:
        lines = zip(LABELS, gold.splitlines(), strict=False)
        return "\n".join(f"{label} ={line.partition(' ')[2]}" for label, line in lines)
