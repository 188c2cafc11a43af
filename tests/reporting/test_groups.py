"""Reading results from directories, and grouping them by setting."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from regrow.errors import RegrowError, UsageError
from regrow.reporting.groups import Group, groups
from regrow.reporting.sources import read
from report_runs import config, write_bench, write_divergence, write_run


def _groups(folder: Path) -> list[Group]:
    return groups(read([folder]))


def test_runs_of_one_setting_are_a_group_and_other_tasks_another(tmp_path: Path) -> None:
    write_run(tmp_path / "math500" / "dense.jsonl", config())
    write_run(tmp_path / "math500" / "deep" / "bap.jsonl", config("bap"), right=3)
    write_run(tmp_path / "amc23" / "dense.jsonl", config(task="amc23"))
    found = {group.name: group for group in _groups(tmp_path)}
    assert set(found) == {"math500", "amc23"}
    rows = found["math500"].rows
    assert [(row.label, row.target, row.batch_size) for row in rows] == [("dense", 0.0, 2), ("BAP", 0.5, 2)]
    assert [row.summary.problems.right for row in rows if row.summary] == [4, 3]
    assert rows[0].against_dense is None
    assert rows[1].against_dense is not None
    assert rows[1].against_dense.difference == -0.25
    assert [row.against_dense for row in found["amc23"].rows] == [None]


def test_pruned_runs_are_compared_with_dense_at_their_own_batch_size(tmp_path: Path) -> None:
    write_run(tmp_path / "dense-b2.jsonl", config(), right=4)
    write_run(tmp_path / "dense-b4.jsonl", config(batch_size=4), right=2)
    write_run(tmp_path / "bap-b4.jsonl", config("bap", 4), right=2)
    write_run(tmp_path / "bap-b1.jsonl", config("bap", 1), right=2)
    (group,) = _groups(tmp_path)
    found = {row.batch_size: row.against_dense for row in group.rows if row.target}
    assert found[4] is not None
    assert found[4].difference == 0
    assert found[1] is None


def test_groups_of_one_task_are_named_by_what_differs(tmp_path: Path) -> None:
    write_run(tmp_path / "short.jsonl", config())
    write_run(tmp_path / "long.jsonl", replace(config(), max_new_tokens=16))
    found = _groups(tmp_path)
    assert {group.name for group in found} == {"math500 (at most 8 tokens)", "math500 (at most 16 tokens)"}
    assert len({group.slug for group in found}) == 2


def test_shards_are_one_run(tmp_path: Path) -> None:
    write_run(tmp_path / "bap.1-of-2.jsonl", config("bap"), right=3, batches=[0])
    write_run(tmp_path / "bap.2-of-2.jsonl", config("bap"), right=3, batches=[1])
    (group,) = _groups(tmp_path)
    (row,) = group.rows
    assert row.summary is not None
    assert (row.summary.problems.right, row.summary.problems.total, row.summary.missing) == (3, 4, ())


def test_a_batch_that_two_files_hold_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "a.jsonl", config("bap"))
    write_run(tmp_path / "b.jsonl", config("bap"), batches=[1])
    with pytest.raises(RegrowError, match="batch 1 is there twice"):
        _groups(tmp_path)


def test_the_same_file_named_twice_is_read_once(tmp_path: Path) -> None:
    path = write_run(tmp_path / "a.jsonl", config("bap"))
    assert len(read([tmp_path, path]).runs[0].files) == 1


def test_an_incomplete_run_is_not_compared_with_dense(tmp_path: Path) -> None:
    write_run(tmp_path / "dense.jsonl", config())
    write_run(tmp_path / "bap.jsonl", config("bap"), batches=[0])
    row = _groups(tmp_path)[0].rows[1]
    assert row.summary is not None
    assert row.summary.missing == (1,)
    assert row.against_dense is None


def test_runs_with_the_same_label_are_told_apart(tmp_path: Path) -> None:
    write_run(tmp_path / "one.jsonl", config("teal", calibration="aaa"))
    write_run(tmp_path / "two.jsonl", config("teal", calibration="bbb"))
    (group,) = _groups(tmp_path)
    assert {row.label for row in group.rows} == {"TEAL (calibration=aaa)", "TEAL (calibration=bbb)"}


def test_a_divergence_joins_the_run_it_belongs_to(tmp_path: Path) -> None:
    write_run(tmp_path / "bap.jsonl", config("bap"))
    write_divergence(tmp_path / "bap.json", config("bap"), 0.25)
    write_divergence(tmp_path / "griffin.json", config("griffin"), 0.5)
    (group,) = _groups(tmp_path)
    found = {
        row.label: (row.summary is not None, row.divergence and row.divergence["mean_kl"])
        for row in group.rows
    }
    assert found == {"BAP": (True, 0.25), "GRIFFIN": (False, 0.5)}


def test_what_is_no_result_is_passed_over_and_what_is_damaged_is_said(tmp_path: Path) -> None:
    write_run(tmp_path / "dense.jsonl", config())
    write_bench(tmp_path / "bench.json")
    (tmp_path / "answers.jsonl").write_text('{"text": "no record"}\n')
    (tmp_path / "torn.json").write_text("{")
    (tmp_path / "table.json").write_text("[]")
    (tmp_path / "checks.json").write_text('{"checks": 8}')
    broken = json.loads(write_divergence(tmp_path / "broken.json", config("bap")).read_text())
    (tmp_path / "broken.json").write_text(json.dumps(broken | {"tokens": "many"}))
    sources = read([tmp_path])
    assert (len(sources.runs), len(sources.benches), len(sources.divergences)) == (1, 1, 0)
    reasons = {path.name: why for path, why in sources.left_out}
    assert set(reasons) == {"answers.jsonl", "torn.json", "broken.json"}
    assert "is not a record file" in reasons["answers.jsonl"]


def test_nothing_to_report_is_refused(tmp_path: Path) -> None:
    (tmp_path / "answers.jsonl").write_text('{"text": "no record"}\n')
    with pytest.raises(UsageError, match=r"no results here.*answers.jsonl is not a record file"):
        read([tmp_path])
    with pytest.raises(UsageError, match="does not exist"):
        read([tmp_path / "nowhere"])
