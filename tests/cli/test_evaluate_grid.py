"""`regrow evaluate` with several runs, with the user's own questions, and `regrow grade`."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from benchmark_files import write_benchmark
from command import run
from regrow.evaluation.graders import GRADERS
from regrow.evaluation.tasks import TASKS
from regrow.evaluation.tasks.benchmark import Benchmark
from regrow.record_file import read

SMALL = ("--no-chat", "--max-new-tokens", 6, "--init-steps", 2)


def _evaluate(model: Path, out: Path, *options: object) -> Any:
    return run("evaluate", model, "--out", out, *SMALL, *options)


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "Own questions.csv"
    path.write_text("q,a\nA add 1 2,3\nA add 2 2,4\nA add 3 2,5\n")
    return path


OWN = ("--question-field", "q", "--answer-field", "a")


def test_a_grid_leaves_a_file_for_every_combination(tiny: Path, tmp_path: Path) -> None:
    write_benchmark(_benchmark("tinygsm8k"), tmp_path)
    out = tmp_path / "runs"
    result = _evaluate(
        tiny, out, "--task", "tinygsm8k,tiny-reasoner", "--data-dir", tmp_path, "--limit", 3,
        "--method", "dense,bap", "--sparsity", "0.3,0.5", "--batch-size", "1,2", "--explore-steps", 1,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*.jsonl")) == sorted(
        f"{task}/{method}-b{size}.jsonl"
        for task in ("tinygsm8k", "tiny-reasoner")
        for method in (
            "dense",
            "bap-init-steps-2-explore-steps-1-s0.3",
            "bap-init-steps-2-explore-steps-1-s0.5",
        )
        for size in (1, 2)
    )
    lines = result.stderr.splitlines()
    title = "regrow: run 1 of 12: tinygsm8k, dense, batch size 1: "
    first = [line for line in lines if line.startswith(title)]
    assert [line.split(": ")[3].split(" batches")[0] for line in first] == ["1 of 3", "2 of 3", "3 of 3"]
    assert all(" tokens/s (" in line for line in first)
    assert "about" in first[0]
    assert "left of this run)" in first[0]
    assert lines[-1] == f"regrow: the records are in 12 files in {out}"
    again = _evaluate(
        tiny, out, "--task", "tinygsm8k", "--data-dir", tmp_path, "--limit", 3, "--method", "dense",
        "--batch-size", 2,
    )  # fmt: skip
    assert again.exit_code == 2
    assert "init_steps" in again.stderr  # dense alone has no such parameter


def test_a_method_without_sparsity_runs_once_also_alone(tiny: Path, tmp_path: Path) -> None:
    asked = ("--task", "tiny_reasoner", "--limit", 2, "--no-chat", "--max-new-tokens", 4)
    out = tmp_path / "runs"
    result = run("evaluate", tiny, "--out", out, *asked, "--method", "dense", "--sparsity", "0.3,0.5")
    assert result.exit_code == 0, result.output
    assert [path.name for path in out.rglob("*.jsonl")] == ["dense-b8.jsonl"]


def test_a_limit_takes_smaller_tasks_whole_if_there_are_several(tiny: Path, tmp_path: Path) -> None:
    for name in ("aime24", "amc23"):
        write_benchmark(_benchmark(name), tmp_path)
    asked = ("--data-dir", tmp_path, "--limit", 35, "--no-chat", "--max-new-tokens", 1, "--batch-size", 40)
    out = tmp_path / "runs"
    result = run("evaluate", tiny, "--out", out, *asked, "--task", "aime24,amc23")
    assert result.exit_code == 0, result.output
    limits = {path.parent.name: read(path)[0].config.limit for path in out.rglob("*.jsonl")}
    assert limits == {"aime24": 30, "amc23": 35}
    alone = run("evaluate", tiny, "--out", out, *asked, "--task", "aime24")
    assert alone.exit_code == 2
    assert "limit must be from 1 to 30, the prompts of aime24, not 35" in alone.stderr


def test_own_questions_are_asked_as_the_options_say(tiny: Path, questions: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.jsonl"
    result = _evaluate(
        tiny, out, "--data", questions, *OWN, "--match", "number", "--prompt-template", "{question} {x}"
    )
    assert result.exit_code == 0, result.output
    record = read(out)[0]
    assert record.ids == ("1", "2", "3")
    assert record.golds == ("3", "4", "5")
    assert (record.config.task, record.config.grader) == (questions.name, "number")
    assert record.config.prompt_template == "{question} {x}"
    right = sum(GRADERS["number"].grade(*pair).right for pair in zip(record.golds, record.texts, strict=True))
    assert f"{right}/3 (" in result.stdout
    questions.write_text(questions.read_text().replace("A add 3 2,5", "A add 3 2,6"))
    changed = _evaluate(
        tiny, out, "--data", questions, *OWN, "--match", "number", "--prompt-template", "{question} {x}"
    )
    assert changed.exit_code == 1
    assert "was made with other settings (data_sha256 is " in changed.stderr


def test_without_a_grader_answers_are_recorded_and_no_accuracy_is_shown(
    tiny: Path, questions: Path, tmp_path: Path
) -> None:
    out = tmp_path / "mine.jsonl"
    result = _evaluate(tiny, out, "--data", questions, "--question-field", "q", "--match", "none")
    assert result.exit_code == 0, result.output
    assert read(out)[0].golds == ("", "", "")
    table = " ".join(result.stdout.split())
    assert "not graded" in table
    assert "0/0" not in table
    assert "100.0 %" not in table
    row = next(
        line for line in run("table", out, "--markdown").stdout.splitlines() if line.startswith("| bap")
    )
    assert row.split(" | ")[3:6] == ["not graded", "–", "not graded"]
    values = json.loads(run("table", out, "--json").stdout)[0]
    assert [values[name]["interval_95"] for name in ("problems", "paper", "prompts")] == [None] * 3
    assert "not graded" in " ".join(run("grade", out).stdout.split())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--data", "Q", "--task", "gsm8k", "--match", "number"], "--task and --data exclude each other"),
        (["--data", "Q"], "--data needs --match, which says how answers are compared with yours: number"),
        (["--data", "Q", "--match", "fuzzy"], "unknown match 'fuzzy'; choose one of "),
        (["--data", "Q", "--match", "exercises"], "unknown match 'exercises'; choose one of "),
        (["--data", "Q", "--match", "number"], "row 1 has no field 'question'; its fields are q, a"),
        (["--data", "Q", *OWN, "--match", "choice"], "row 1: "),
        (["--data", "Q", *OWN, "--match", "none"], "--answer-field is not read with --match none"),
        (["--data", "Q", *OWN, "--match", "number", "--data-dir", "."], "--data-dir is for --task"),
        (["--match", "number"], "--match describes a file of your own questions; give that with --data"),
        (["--task", "gsm8k", "--answer-field", "a"], "--answer-field describes a file of your own"),
        ([], "no task is named, and the exercises of the bundled model say nothing about"),
        (["--task", "tiny_reasoner", "--prompt-template", "Q:"], "does not say where the question goes"),
        (["--task", "tiny_reasoner", "--system", "S"], "a system message needs a chat template"),
        (["--task", "gsm8k", "--data-dir", "EMPTY"], "gsm8k is not in "),
        (["--task", "tiny_reasoner", "--shard", "3/2"], "--shard takes I/N with I from 1 to N"),
        (["--task", "tiny_reasoner", "--batch-size", "0"], "--batch-size takes whole numbers from 1 on"),
        (["--task", "tiny_reasoner", "--samples", "2"], "2 samples of greedy decoding would be equal"),
        (["--task", "tiny_reasoner", "--batch-size", "1,2"], "is one file, and 2 runs are asked for"),
        (["--task", "tiny_reasoner", "--method", "bap,dense", "-P", "period"], "--param takes NAME=VALUE"),
        (["--task", "tiny_reasoner", "--method", "dense,griffin"], "has a parameter init_steps"),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_one_sentence(
    tiny: Path, questions: Path, tmp_path: Path, options: list[object], sentence: str
) -> None:
    places = {"Q": questions, "EMPTY": tmp_path / "empty"}
    out = tmp_path / "run.jsonl"
    result = _evaluate(tiny, out, *(places.get(str(option), option) for option in options))
    assert (result.exit_code, result.stdout) == (2, "")
    assert sentence in result.stderr
    assert result.stderr.count("\n") == 1
    assert not out.exists()


def test_a_run_that_will_be_refused_is_refused_before_the_first_one_begins(
    tiny: Path, questions: Path, tmp_path: Path
) -> None:
    out, asked = tmp_path / "runs", ("--data", questions, *OWN, "--match", "number", "--batch-size", 1)
    result = _evaluate(tiny, out, *asked, "--method", "bap,teal")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "method 'teal' needs a calibration of this model" in result.stderr
    assert not list(out.rglob("*"))
    assert _evaluate(tiny, out, *asked, "--method", "griffin,bap").exit_code == 0
    (out / "own-questions.csv" / "griffin-s0.5-b1.jsonl").unlink()
    changed = _evaluate(tiny, out, *asked, "--method", "griffin,bap", "--max-new-tokens", 5)
    assert changed.exit_code == 1
    assert (
        "bap-init-steps-2-s0.5-b1.jsonl was made with other settings (max_new_tokens is 6 there and 5 here)"
        in changed.stderr
    )
    assert not (out / "own-questions.csv" / "griffin-s0.5-b1.jsonl").exists()


def test_shards_have_files_of_their_own_and_count_as_one_run(tiny: Path, tmp_path: Path) -> None:
    whole, shared = tmp_path / "whole", tmp_path / "shared"
    options = ("--task", "tiny_reasoner", "--limit", 5, "--batch-size", 2)
    assert _evaluate(tiny, whole, *options).exit_code == 0
    for shard in ("2/2", "1/2"):
        result = _evaluate(tiny, shared, *options, "--shard", shard)
        assert result.exit_code == 0, result.output
    name = "bap-init-steps-2-s0.5-b2"
    assert sorted(path.name for path in shared.rglob("*.jsonl")) == [
        f"{name}.1-of-2.jsonl", f"{name}.2-of-2.jsonl"
    ]  # fmt: skip
    for out, given, there in (
        (shared, ("--shard", "2/3"), f"{name}.1-of-2"),
        (shared, (), f"{name}.1-of-2"),
        (whole, ("--shard", "1/2"), name),
    ):
        before = sorted(out.rglob("*"))
        refused = _evaluate(tiny, out, *options, *given)
        assert (refused.exit_code, refused.stdout, refused.stderr.count("\n")) == (1, "", 1)
        assert f"{out}/tiny-reasoner/{there}.jsonl is of the same run with another --shard" in refused.stderr
        assert sorted(out.rglob("*")) == before
    tables = [json.loads(run("table", out, "--json").stdout) for out in (whole, shared)]
    assert [len(table) for table in tables] == [1, 1]
    for key in ("problems", "prompts", "families", "tokens", "decode_steps", "missing", "key"):
        assert tables[0][0][key] == tables[1][0][key]


def test_sampled_answers_are_a_mean_over_all_samples(tiny: Path, questions: Path, tmp_path: Path) -> None:
    out = tmp_path / "sampled.jsonl"
    result = _evaluate(
        tiny, out, "--data", questions, *OWN, "--match", "exact", "--temperature", 0.8, "--samples", 3
    )
    assert result.exit_code == 0, result.output
    config = read(out)[0].config
    assert (config.sampling, config.samples) == ("temperature=0.8, seed=0", 3)
    assert json.loads(run("table", out, "--json").stdout)[0]["problems"]["total"] == 9


def test_grades_are_kept_beside_the_records(tiny: Path, questions: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.jsonl"
    assert _evaluate(tiny, out, "--data", questions, *OWN, "--match", "number").exit_code == 0
    before, table = out.read_bytes(), run("table", out).stdout
    result = run("grade", tmp_path)
    assert result.exit_code == 0, result.output
    assert result.stdout == table
    kept = json.loads((tmp_path / "mine.grades.json").read_text())
    assert [answer["gold"] for answer in kept["answers"]] == ["3", "4", "5"]
    assert all(set(answer["marks"][0]) == {"family", "right", "paper"} for answer in kept["answers"])
    assert out.read_bytes() == before
    (tmp_path / "begun.jsonl").touch()
    again = run("table", tmp_path)
    assert again.stdout == table
    assert again.stderr == f"regrow: note: {tmp_path}/begun.jsonl holds no batch yet and is left out\n"


def test_grades_that_cannot_be_written_name_what_helps(
    tiny: Path, questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "mine.jsonl"
    assert _evaluate(tiny, out, "--data", questions, *OWN, "--match", "number").exit_code == 0

    def read_only(_: int) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "fsync", read_only)
    result = run("grade", out)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        f"regrow: error: {tmp_path}/mine.grades.json cannot be written: Read-only file system; "
        "copy the records to a directory that can be written\n"
    )


def _benchmark(name: str) -> Benchmark:
    found = TASKS[name]
    assert isinstance(found, Benchmark)
    return found
