"""Grades a record file without a model. Grading can be repeated whenever a grader changes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from regrow.errors import RegrowError
from regrow.evaluation.tasks import find
from regrow.evaluation.tasks.task import Item, Task, batches, fingerprint
from regrow.record_file import read
from regrow.records import Grade, Graded, Record


def grade(path: Path) -> Graded:
    """Grades every complete batch of a file. The other batches are listed in `missing`.

    Raises UsageError if the file cannot be read or its task is unknown. Raises RegrowError if the file is
    damaged, or if its prompts differ from those that the task has now.
    """
    records = read(path)
    config = records[0].config
    task = find(config.task)
    items = task.load(config.limit)
    if fingerprint(items) != config.task_sha256:
        raise RegrowError(
            f"{path} answers other prompts than {task.name} has now: grade it with the version in its records"
        )
    planned = batches(items, config.batch_size)
    grades = [mark for record in records for mark in _batch(path, task, planned[record.batch], record)]
    missing = sorted(set(range(config.batches)) - {record.batch for record in records})
    return Graded(records, tuple(grades), tuple(missing))


def _batch(path: Path, task: Task, items: Sequence[Item], record: Record) -> list[Grade]:
    if record.ids != tuple(item.id for item in items):
        raise RegrowError(
            f"{path}: batch {record.batch} does not hold the prompts it should; "
            "restore the file or run it again"
        )
    return [task.grade(item, text) for item, text in zip(items, record.texts, strict=True)]
