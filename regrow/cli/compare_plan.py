"""The plan of `regrow compare` for one task, from its options and what the task, context and memory hold."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final

from regrow.evaluation.comparison_plan import ComparisonPlan
from regrow.evaluation.divergence import most_traced_tokens
from regrow.evaluation.run_task import longest_answer
from regrow.evaluation.scale import FULL, Scale
from regrow.evaluation.tasks.task import Task
from regrow.models import Loaded


@final
@dataclass(frozen=True)
class Asked:
    """Sizes that the options ask for, of each task. None: the default."""

    limit: int | None
    traced: int | None
    max_new_tokens: int | None
    text: Path | None  # for the calibrations
    size: Scale  # of the comparison, whose numbers are the defaults
    largest_batch: int

    def plan(self, loaded: Loaded, task: Task, directory: Path) -> ComparisonPlan:
        """Returns the plan for one task. It has no more prompts than the task, and its defaults fit."""
        count, chat = len(task.items), bool(loaded.tokenizer.chat_template)
        longest = longest_answer(loaded, task, chat)
        usual = min(self.size.max_new_tokens, longest)
        answers = self.max_new_tokens or (usual if task.generated or self.size != FULL else longest)
        traceable = most_traced_tokens(loaded)
        whole = min(self.size.traced, count)
        # With a large vocabulary, one batch is traced, and its answers are the longer.
        usual_traced = whole if whole * usual <= traceable else min(whole, self.largest_batch)
        traced = min(self.traced or usual_traced, count)
        return ComparisonPlan(
            directory,
            task,
            min(self.limit or self.size.prompts, count),
            traced,
            answers,
            min(answers, usual, max(2, traceable // traced)),
            chat,
            self.text,
            self.size.sequences,
            self.size.length,
        )
