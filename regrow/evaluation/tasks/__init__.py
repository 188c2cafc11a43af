"""All tasks by name. A new task needs a value in a file of this folder and an entry in TASKS."""

from __future__ import annotations

from regrow.errors import require_one_of
from regrow.evaluation.tasks.gpqa import GPQA_DIAMOND
from regrow.evaluation.tasks.mathematics import AIME24, AIME25, AMC23, GSM8K, MATH500, MINERVA, TINY_GSM8K
from regrow.evaluation.tasks.task import Task, TaskRequest, TaskSource
from regrow.evaluation.tasks.tiny_reasoner import TinyReasoner

TASKS: dict[str, TaskSource] = {
    source.name: source
    for source in (
        GSM8K, TINY_GSM8K, MATH500, MINERVA, AMC23, GPQA_DIAMOND, AIME24, AIME25, TinyReasoner()
    )
}  # fmt: skip


def load(name: str, request: TaskRequest = TaskRequest()) -> Task:  # noqa: B008 (the request is frozen)
    """Returns the task called `name`.

    Raises UsageError for an unknown name, and if the data cannot be had.
    """
    require_one_of(TASKS, task=name)
    return TASKS[name].load(request)
