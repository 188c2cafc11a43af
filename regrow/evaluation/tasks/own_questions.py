"""A task made from a file of the user's own questions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from regrow.evaluation.tasks.rows import read_file, text_field
from regrow.evaluation.tasks.task import QUESTION, Task, TaskRequest, make_items

NO_GRADER: Final = "none"


@final
@dataclass(frozen=True)
class OwnQuestions:
    """Questions of a .jsonl, .json or .csv file, one a row.

    Without a grader (`none`) the rows need no answer.
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
                str(number),
                text_field(rows, number, self.question_field),
                text_field(rows, number, self.answer_field).strip() if graded else "",
            )
            for number in range(1, len(rows.rows) + 1)
        ]
        template = request.template or QUESTION
        items = make_items(questions, template)
        return Task(
            self.name, items, self.grader, template=template, system=request.system, data_sha256=rows.sha256
        )
