"""`regrow report`: what it writes, prints and refuses."""

from __future__ import annotations

import json
from pathlib import Path

from command import run
from report_runs import config, write_everything, write_run


def test_a_report_is_a_page_a_document_and_its_figures(tmp_path: Path) -> None:
    write_everything(tmp_path / "results")
    result = run("report", tmp_path / "results", "--out", tmp_path / "report")
    assert result.exit_code == 0, result.stderr
    names = {path.name for path in (tmp_path / "report").iterdir()}
    assert {"report.html", "report.md"} < names
    figures = names - {"report.html", "report.md"}
    assert all(name.endswith(".svg") for name in figures)
    assert (
        result.stdout
        == f"{tmp_path / 'report' / 'report.html'}; beside it report.md and {len(figures)} figures\n"
    )
    assert all(f"]({name})" in (tmp_path / "report" / "report.md").read_text() for name in figures)


def test_json_prints_the_numbers_and_writes_nothing(tmp_path: Path) -> None:
    write_run(tmp_path / "dense.jsonl", config())
    result = run("report", tmp_path, "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["groups"][0]["rows"][0]["label"] == "dense"
    assert [path.name for path in tmp_path.iterdir()] == ["dense.jsonl"]


def test_a_file_that_is_left_out_is_said(tmp_path: Path) -> None:
    write_run(tmp_path / "dense.jsonl", config())
    (tmp_path / "answers.jsonl").write_text('{"text": "no record"}\n')
    result = run("report", tmp_path, "--out", tmp_path / "report")
    assert result.exit_code == 0
    assert result.stderr.startswith(f"regrow: left out: {tmp_path / 'answers.jsonl'} is not a record file")
    assert "Left out: " in (tmp_path / "report" / "report.md").read_text()


def test_refusals(tmp_path: Path) -> None:
    write_run(tmp_path / "results" / "dense.jsonl", config())
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    for arguments, sentence in (
        (("results",), "name the directory of the report with --out, or print its numbers with --json"),
        (("empty", "--out", tmp_path / "out"), "no results here"),
        (("nowhere", "--out", tmp_path / "out"), "does not exist"),
        (("results", "--out", tmp_path / "file"), "is not a directory; choose another --out"),
        (("results", "--out", tmp_path / "file" / "out"), "cannot be written"),
    ):
        result = run("report", tmp_path / arguments[0], *arguments[1:])
        assert result.exit_code == 2, arguments
        assert result.stderr.startswith("regrow: error: ")
        assert sentence in result.stderr
        assert result.stderr.count("\n") == 1
        assert not (tmp_path / "out").exists()


def test_a_batch_in_two_files_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    for name in ("one.jsonl", "two.jsonl"):
        write_run(tmp_path / "results" / name, config())
    result = run("report", tmp_path / "results", "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "batch 0 is there twice" in result.stderr
    assert not (tmp_path / "out").exists()
