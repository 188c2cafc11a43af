"""The runs of one `regrow evaluate`: every task with every method at every batch size."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from regrow.errors import RegrowError, UsageError
from regrow.evaluation.grading import run_of, shards_of
from regrow.evaluation.labels import unusual
from regrow.evaluation.tasks.task import Task
from regrow.format import parameters
from regrow.method.base import Method


@final
@dataclass(frozen=True)
class Run:
    """One task, method and batch size; its batches go to one record file."""

    task: Task
    method: Method
    batch_size: int

    @property
    def title(self) -> str:
        """The run in words, for progress lines."""
        named = parameters(self._named)
        method = f"{self.method.name} ({named})" if self._named else self.method.name
        return f"{self.task.name}, {method}, batch size {self.batch_size}"

    def file(self, directory: Path, shard: tuple[int, int]) -> Path:
        """Returns the record file. Every shard has its own."""
        named = "".join(f"-{name}-{value}" for name, value in self._named.items() if name != "sparsity")
        sparsity = f"-s{self._named['sparsity']}" if "sparsity" in self._named else ""
        part = f".{shard[0]}-of-{shard[1]}" if shard[1] > 1 else ""
        name = f"{_slug(self.method.name + named)}{sparsity}-b{self.batch_size}{part}.jsonl"
        return directory / _slug(self.task.name) / name

    @property
    def _named(self) -> dict[str, object]:
        """The sparsity and the parameters that are not defaults."""
        described = self.method.describe()
        return unusual(described.pop("name"), described)


def runs(tasks: Sequence[Task], methods: Sequence[Method], batch_sizes: Sequence[int]) -> list[Run]:
    """Returns every combination. Raises UsageError if two of them would have the same file."""
    found = list(_combined(tasks, methods, batch_sizes))
    files = [run.file(Path(), (1, 1)) for run in found]
    twice = next((run for run, file in zip(found, files, strict=True) if files.count(file) > 1), None)
    if twice is not None:
        raise UsageError(f"{twice.title} is asked for twice; leave one out")
    return found


def refuse_other_shards(file: Path, shards: int) -> None:
    """Raises RegrowError if a new file would repeat batches of the same run with another number of shards.

    A file that the user has named may hold any shard, and one that is there is continued.
    """
    if shards_of(file) != shards or file.exists():
        return
    for other in sorted(file.parent.glob("*.jsonl")):
        if run_of(other) == run_of(file) and shards_of(other) != shards:
            raise RegrowError(
                f"{other} is of the same run with another --shard, so its batches would be run again; "
                "keep to that number of shards or choose another --out"
            )


def _combined(tasks: Sequence[Task], methods: Sequence[Method], batch_sizes: Sequence[int]) -> Iterator[Run]:
    for task in tasks:
        for batch_size in dict.fromkeys(batch_sizes):
            for method in methods:
                yield Run(task, method, batch_size)


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")
