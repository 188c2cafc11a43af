from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from regrow.bundled.problems import exercise
from regrow.errors import RegrowError, UsageError
from regrow.evaluation.grading import grade
from regrow.evaluation.tasks import load
from regrow.evaluation.tasks.task import fingerprint
from regrow.records import Record
from samples import CONFIG, record

OURS = replace(CONFIG, task_sha256=fingerprint(load("tiny_reasoner").first(3).items))


def _solved(batch: int) -> Record:
    rows = record(batch, OURS)
    return replace(rows, texts=tuple(exercise(name).solution for name in rows.ids))


def _write(path: Path, *records: Record) -> Path:
    path.write_bytes(b"".join(made.line() for made in records))
    return path


def test_texts_are_graded_in_the_order_of_the_task(tmp_path: Path) -> None:
    second = replace(_solved(1), texts=("",))
    graded = grade(_write(tmp_path / "run.jsonl", second, _solved(0)))
    assert [made.batch for made in graded.records] == [0, 1]
    assert [given.right == given.total for given in graded.grades] == [True, True, False]
    assert [given.total for given in graded.grades] == [
        len(exercise(f"heldout-{i}").problems) for i in range(3)
    ]
    assert graded.missing == ()
    assert graded.config == OURS


def test_missing_batches_are_said(tmp_path: Path) -> None:
    graded = grade(_write(tmp_path / "run.jsonl", _solved(1)))
    assert graded.missing == (0,)
    assert len(graded.grades) == 1


def test_grading_twice_gives_the_same_and_changes_nothing(tmp_path: Path) -> None:
    path = _write(tmp_path / "run.jsonl", _solved(0), _solved(1))
    before = path.read_bytes()
    assert grade(path) == grade(path)
    assert path.read_bytes() == before


def test_other_prompts_than_the_task_has_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RegrowError, match="other prompts than tiny_reasoner has now"):
        grade(_write(tmp_path / "run.jsonl", record(0)))


def test_a_batch_of_the_wrong_prompts_is_refused(tmp_path: Path) -> None:
    swapped = replace(_solved(0), ids=("heldout-1", "heldout-0"))
    with pytest.raises(RegrowError, match="batch 0 does not hold the prompts"):
        grade(_write(tmp_path / "run.jsonl", swapped))


def test_an_unknown_task_and_a_missing_file_are_usage_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown task 'chess'"):
        grade(_write(tmp_path / "run.jsonl", record(0, replace(OURS, task="chess"))))
    with pytest.raises(UsageError, match="cannot be read"):
        grade(tmp_path / "none.jsonl")
