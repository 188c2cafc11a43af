"""All tasks by name. A new task needs a file in this folder and an entry in TASKS."""

from __future__ import annotations

from regrow.errors import require_one_of
from regrow.evaluation.tasks.task import Task
from regrow.evaluation.tasks.tiny_reasoner import TinyReasoner

TASKS: dict[str, Task] = {task.name: task for task in (TinyReasoner(),)}


def find(name: str) -> Task:
    """Returns the task called `name`. Raises UsageError for an unknown name."""
    require_one_of(TASKS, task=name)
    return TASKS[name]
