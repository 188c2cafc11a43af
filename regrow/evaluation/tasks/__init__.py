"""Every task by name; a new one is a file here and a line below."""

from __future__ import annotations

from regrow.errors import require_one_of
from regrow.evaluation.tasks.task import Task
from regrow.evaluation.tasks.tiny_reasoner import TinyReasoner

TASKS: dict[str, Task] = {task.name: task for task in (TinyReasoner(),)}


def find(name: str) -> Task:
    """The task of that name. Raises UsageError on an unknown one."""
    require_one_of(TASKS, task=name)
    return TASKS[name]
