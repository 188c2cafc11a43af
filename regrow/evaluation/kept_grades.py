"""Grades on disk, beside the record files that they belong to, so that answers are not graded again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from regrow.records import Grade, Graded, Mark
from regrow.whole_file import write_whole

FORMAT: Final = "regrow grades 1"
_DECIDING: Final = (
    "regrow",
    "math-verify",
    "sympy",
    "latex2sympy2-extended",
)  # libraries that grades depend on


def grades_file(run: Path) -> Path:
    """Returns the file with the grades of a run. `run`: its record file, without the number of a shard."""
    return run.with_suffix(".grades.json")


def write_grades(run: Path, records: Sequence[Path], graded: Graded) -> Path:
    """Writes the grades of a run, with the id and the gold answer of each prompt, and returns the file.

    Raises RegrowError if the file cannot be written.
    """
    rows = [
        (record.batch, name, gold)
        for record in graded.records
        for name, gold in zip(record.ids, record.golds or [None] * len(record.ids), strict=True)
    ]
    answers = [
        {"batch": batch, "id": name, "gold": gold, **asdict(grade)}
        for (batch, name, gold), grade in zip(rows, graded.grades, strict=True)
    ]
    content = {**_made_from(records), "key": graded.config.key, "answers": answers}
    path = grades_file(run)
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    write_whole(path, text.encode(errors="replace"), "copy the records to a directory that can be written")
    return path


def read_grades(run: Path, records: Sequence[Path]) -> tuple[Grade, ...] | None:
    """Returns the grades of a run in the order of its records.

    None if there are none, if they are damaged, or if the records or the graders have changed since.
    """
    try:
        content = json.loads(grades_file(run).read_bytes())
        made_from = _made_from(records)
        if any(content[name] != value for name, value in made_from.items()):
            return None
        return tuple(_grade(answer) for answer in content["answers"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _grade(answer: dict[str, Any]) -> Grade:
    return Grade(tuple(Mark(**mark) for mark in answer["marks"]), timed_out=answer["timed_out"])


def _made_from(records: Sequence[Path]) -> dict[str, Any]:
    """Returns what grades depend on: the records and the versions of the graders."""
    return {
        "format": FORMAT,
        "records_sha256": [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(records)],
        "versions": {name: version(name) for name in _DECIDING},
    }
