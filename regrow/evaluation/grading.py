"""Grades record files without a model. Grading can be repeated whenever a grader changes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from regrow.errors import RegrowError
from regrow.evaluation.graders import find
from regrow.evaluation.graders.judge import Judge
from regrow.evaluation.kept_grades import read_grades
from regrow.evaluation.tasks import load
from regrow.evaluation.tasks.task import batches, fingerprint
from regrow.record_file import read
from regrow.records import Grade, Graded, Record
from regrow.run_config import RunConfig

_EXERCISES: Final = "exercises"  # the grader of records of formats 2 and 3
_SHARD: Final = re.compile(r"\.\d+-of-(\d+)(?=\.jsonl$)")


def grade(*paths: Path) -> Graded:
    """Grades every complete batch of a file, or of the files of the shards of one run.

    The other batches are listed in `missing`. Raises UsageError if a file cannot be read or its grader is
    unknown. Raises RegrowError if a file is damaged, if the files are not of one run, or if a record without
    gold answers holds other prompts than its task has now. Grades that `regrow grade` has kept are used as
    long as neither the records nor the graders have changed.
    """
    records = read(*paths)
    config = records[0].config
    missing = sorted(set(range(config.batches)) - {record.batch for record in records})
    grades = read_grades(run_of(paths[0]), paths)
    if grades is None or len(grades) != sum(len(record.ids) for record in records):
        grades = tuple(_grades(paths[0], records))
    return Graded(records, grades, tuple(missing))


def run_of(path: Path) -> Path:
    """Returns the record file's path without the number of a shard, which names the run."""
    return path.with_name(_SHARD.sub("", path.name))


def shards_of(path: Path) -> int:
    """Returns the number of shards that a record file is named for; 1 if its name says nothing of shards."""
    found = _SHARD.search(path.name)
    return int(found[1]) if found else 1


def _grades(path: Path, records: Sequence[Record]) -> Iterator[Grade]:
    config = records[0].config
    grader = config.grader or _EXERCISES
    find(grader)
    golds = _golds_of_the_task(path, config) if config.grader is None else None
    with Judge() as judge:
        for record in records:
            for gold, text in zip(_golds(path, record, golds), record.texts, strict=True):
                yield judge.grade(grader, gold, text)


def together(paths: Sequence[Path]) -> list[list[Path]]:
    """Groups the files of the shards of one run, such as bap-s0.5-b8.1-of-2.jsonl and ...2-of-2.jsonl."""
    groups: list[list[Path]] = []
    shards: dict[Path, list[Path]] = {}
    for path in paths:
        run = run_of(path)
        if run == path or run not in shards:
            groups.append([path])
            shards[run] = groups[-1]
        else:
            shards[run].append(path)
    return groups


def _golds_of_the_task(path: Path, config: RunConfig) -> dict[str, str]:
    """Returns the gold answers by id, for records of the formats that do not hold them."""
    items = load(config.task).first(config.limit).items
    if fingerprint(items) != config.task_sha256:
        raise RegrowError(
            f"{path} answers other prompts than {config.task} has now: "
            "grade it with the version in its records"
        )
    return {item.id: item.gold for item in items}


def _golds(path: Path, record: Record, golds: dict[str, str] | None) -> Sequence[str]:
    if record.golds is not None:
        return record.golds
    assert golds is not None
    size = record.config.batch_size
    planned = batches(list(golds), size)[record.batch]
    if record.ids != tuple(planned):
        raise RegrowError(
            f"{path}: batch {record.batch} does not hold the prompts it should; "
            "restore the file or run it again"
        )
    return [golds[name] for name in record.ids]
