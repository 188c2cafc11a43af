"""Which task a command answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from regrow.errors import UsageError

if TYPE_CHECKING:
    from regrow.evaluation.tasks.task import Task

_DEFAULT = "tiny_reasoner"  # of the bundled model alone


def chosen(name: str | None, model: str | None) -> Task:
    """The task of that name; without one, the bundled model's. Raises UsageError for an unknown task, and for none with another model."""
    from regrow.evaluation.tasks import find

    if name is None and model is not None:
        raise UsageError(
            f"no task is named, and the exercises of the bundled model, {_DEFAULT}, say nothing about {model}: name one with --task "
            f"(--task {_DEFAULT} runs those all the same)"
        )
    return find((name or _DEFAULT).replace("-", "_"))
