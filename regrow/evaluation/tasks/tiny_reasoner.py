"""The held-out exercises of the bundled model. Each prompt asks several problems."""

from __future__ import annotations

from typing import ClassVar, final

from regrow.bundled.problems import heldout
from regrow.evaluation.graders.exercises import Exercises
from regrow.evaluation.tasks.task import Item, Task
from regrow.records import Grade


@final
class TinyReasoner(Task):
    """Held-out exercises of the bundled model.

    The id of an item is the seed of its exercise. Its gold answer has one line for each problem, with the
    family and the answer.
    """

    name: ClassVar[str] = "tiny_reasoner"
    summary: ClassVar[str] = (
        "held-out exercises of the bundled model: ten families of small reasoning problems"
    )
    size: ClassVar[int] = 500

    def items(self, count: int) -> list[Item]:
        return [
            Item(
                f"heldout-{i}",
                held.prompt,
                "\n".join(f"{problem.family} {problem.answer}" for problem in held.problems),
            )
            for i, held in enumerate(heldout(count))
        ]

    def grade(self, item: Item, text: str) -> Grade:
        return Exercises().grade(item.gold, text)
