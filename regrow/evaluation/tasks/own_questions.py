"""A task made from a file of the user's own questions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from regrow.evaluation.graders import GRADERS
from regrow.evaluation.tasks.rows import Rows, read_file, text_field
from regrow.evaluation.tasks.task import QUESTION, Task, TaskRequest, make_items

NO_GRADER: Final = "none"
# Graders that a user may choose; that of the exercises reads prompts that ask several problems.
MATCHES: Final = tuple(name for name in GRADERS if name != "exercises")


@final
@dataclass(frozen=True)
class OwnQuestions:
    """Questions of a .jsonl, .json or .csv file, one a row.

    Without a grader (`none`) the rows need no answer. If every row has an `id` of its own, records name the
    rows by it, and otherwise by their numbers.
    """

    path: Path
    question_field: str
    answer_field: str
    grader: str

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def summary(self) -> str:
        return f"the questions of {self.path}"

    def load(self, request: TaskRequest) -> Task:
        """Reads the file. Raises UsageError if it cannot be read, or if a row lacks a field."""
        rows = read_file(self.path)
        graded = self.grader != NO_GRADER
        questions = [
            (
                name,
                text_field(rows, number, self.question_field, "name one with --question-field"),
                text_field(
                    rows,
                    number,
                    self.answer_field,
                    "name one with --answer-field, or use --match none to record answers without grading",
                ).strip()
                if graded
                else "",
            )
            for number, name in enumerate(_names(rows), 1)
        ]
        template = request.template or QUESTION
        items = make_items(questions, template)
        return Task(
            self.name, items, self.grader, template=template, system=request.system, data_sha256=rows.sha256
        )


def _names(rows: Rows) -> list[str]:
    """Returns a name for each row."""
    given = [row.get("id") for row in rows.rows]
    names = [str(name) for name in given if isinstance(name, str | int) and str(name).strip()]
    if len(set(names)) == len(rows.rows):
        return names
    return [str(number) for number in range(1, len(rows.rows) + 1)]
