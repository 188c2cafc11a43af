from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from regrow.bundled.problems import exercise
from regrow.errors import RegrowError, UsageError
from regrow.evaluation.graders.judge import Judge
from regrow.evaluation.grading import grade, together
from regrow.evaluation.kept_grades import write_grades
from regrow.evaluation.tasks import load
from regrow.evaluation.tasks.task import fingerprint
from regrow.records import Record
from samples import CONFIG, FORMAT_3, record

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


def test_a_record_is_graded_by_the_golds_it_holds(tmp_path: Path) -> None:
    """Neither the task nor its data are needed."""
    unknown = replace(OURS, task="chess", grader="number")
    made = replace(record(0, unknown), golds=("3", "4"), texts=("so 3", "so \\boxed{5}"))
    assert [given.right for given in grade(_write(tmp_path / "run.jsonl", made)).grades] == [1, 0]


def test_records_without_golds_are_graded_by_those_of_their_task(tmp_path: Path) -> None:
    earlier = replace(FORMAT_3, task_sha256=OURS.task_sha256)
    solved = replace(_solved(0), config=earlier, golds=None)
    assert [given.right == given.total for given in grade(_write(tmp_path / "a.jsonl", solved)).grades] == [
        True, True
    ]  # fmt: skip
    with pytest.raises(RegrowError, match="other prompts than tiny_reasoner has now"):
        grade(_write(tmp_path / "b.jsonl", record(0, FORMAT_3)))
    swapped = replace(solved, ids=("heldout-1", "heldout-0"))
    with pytest.raises(RegrowError, match="batch 0 does not hold the prompts"):
        grade(_write(tmp_path / "c.jsonl", swapped))
    with pytest.raises(UsageError, match="unknown task 'chess'"):
        grade(_write(tmp_path / "d.jsonl", record(0, replace(earlier, task="chess"))))


def test_shards_are_graded_as_one_run(tmp_path: Path) -> None:
    one, two = tmp_path / "bap-b2.1-of-2.jsonl", tmp_path / "bap-b2.2-of-2.jsonl"
    other, whole = tmp_path / "dense-b2.jsonl", tmp_path / "whole.jsonl"
    _write(one, _solved(0))
    _write(two, _solved(1))
    whole.write_bytes(two.read_bytes() + one.read_bytes())
    assert together([one, other, two]) == [[one, two], [other]]
    assert grade(one, two) == grade(whole)
    assert grade(one).missing == (1,)
    with pytest.raises(RegrowError, match="cannot be taken together: batch 0 is there twice"):
        grade(one, whole)


def test_kept_grades_are_used_until_the_records_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _write(tmp_path / "run.jsonl", _solved(0))
    graded = grade(path)
    kept = write_grades(path, [path], graded)
    with monkeypatch.context() as patch:
        patch.delattr(Judge, "grade")
        assert grade(path) == graded
    lacking = json.loads(kept.read_text())
    del lacking["answers"][1]
    kept.write_text(json.dumps(lacking))
    assert grade(path) == graded
    write_grades(path, [path], graded)
    _write(path, replace(_solved(0), texts=("", "")))  # other answers of the same prompts
    assert [given.right for given in grade(path).grades] == [0, 0]
    _write(path, _solved(0), record(1, OURS))
    assert len(grade(path).grades) == 3  # the kept ones are of other records
    write_grades(path, [path], grade(path))
    assert kept.exists()
    kept.write_text(kept.read_text()[:100])
    assert len(grade(path).grades) == 3


def test_an_unknown_grader_and_a_missing_file_are_usage_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown grader 'chess'"):
        grade(_write(tmp_path / "run.jsonl", record(0, replace(OURS, grader="chess"))))
    with pytest.raises(UsageError, match="cannot be read"):
        grade(tmp_path / "none.jsonl")
