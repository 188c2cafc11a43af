"""The held-out exercises of the bundled model. Each prompt asks several problems."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

from regrow.bundled.problems import heldout
from regrow.evaluation.tasks.task import QUESTION, Task, TaskRequest, make_items

COUNT: Final = 500


@final
@dataclass(frozen=True)
class TinyReasoner:
    """Held-out exercises of the bundled model, which need no data.

    The id of an item is the seed of its exercise. Its gold answer has one line for each problem, with the
    family and the answer.
    """

    name: str = "tiny_reasoner"
    summary: str = "held-out exercises of the bundled model: ten families of small reasoning problems"

    def load(self, request: TaskRequest) -> Task:
        questions = [
            (
                f"heldout-{number}",
                exercise.prompt,
                "\n".join(f"{problem.family} {problem.answer}" for problem in exercise.problems),
            )
            for number, exercise in enumerate(heldout(COUNT))
        ]
        template = request.template or QUESTION
        items = make_items(questions, template)
        return Task(self.name, items, "exercises", template=template, system=request.system)
