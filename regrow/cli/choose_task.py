"""Finds the task that a command answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from regrow.errors import UsageError

if TYPE_CHECKING:
    from regrow.evaluation.tasks.task import Task

_DEFAULT = "tiny_reasoner"  # only for the bundled model


def chosen(name: str | None, model: str | None) -> Task:
    """Returns the task called `name`; None means the task of the bundled model.

    Raises UsageError for an unknown task, and for no name with a model that is not the bundled one.
    """
    from regrow.evaluation.tasks import find

    if name is None and model is not None:
        raise UsageError(
            f"no task is named, and the exercises of the bundled model say nothing about {model}: "
            f"name a task with --task (--task {_DEFAULT} runs those exercises anyway)"
        )
    return find((name or _DEFAULT).replace("-", "_"))
