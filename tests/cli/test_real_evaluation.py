"""A real model from questions to the report: evaluated, killed, continued, graded and reported."""

from __future__ import annotations

import json
import time
from pathlib import Path

from command import run, start
from regrow.errors import RegrowError
from regrow.record_file import read
from timeless import timeless

QUESTIONS = [(f"What is {a} + {b}? Answer with the number alone.", a + b) for a, b in (
    (2, 3), (1, 1), (4, 5), (10, 20)
)]  # fmt: skip
OPTIONS = (
    "--match", "number", "--method", "bap", "--init-steps", 4, "--period", 8, "--batch-size", 2,
    "--max-new-tokens", 8, "--dtype", "float32",
)  # fmt: skip


def test_killed_and_continued_equals_undisturbed_and_is_reported(smollm2: Path, tmp_path: Path) -> None:
    data = tmp_path / "sums.jsonl"
    data.write_text("".join(f"{json.dumps({'question': q, 'answer': a})}\n" for q, a in QUESTIONS))
    whole, killed = tmp_path / "whole" / "bap.jsonl", tmp_path / "killed" / "bap.jsonl"
    command = ("evaluate", smollm2, "--data", data, *OPTIONS)
    with start(*command, "--out", killed) as process:
        while process.poll() is None and not _batches(killed):
            time.sleep(0.02)
        process.kill()
    assert 1 <= _batches(killed) <= 2
    done = run(*command, "--out", killed)
    assert done.exit_code == 0, done.output
    assert run(*command, "--out", whole).exit_code == 0
    assert [timeless(record) for record in read(killed)] == [timeless(record) for record in read(whole)]
    graded = json.loads(run("grade", whole.parent, "--json").stdout)[0]
    assert graded["problems"]["total"] == 4
    assert 0 < graded["problems"]["right"] <= 4
    assert 0 < graded["actual_sparsity"] < 0.5
    assert run("report", whole.parent, "--out", tmp_path / "report").exit_code == 0
    assert "sums.jsonl" in (tmp_path / "report" / "report.html").read_text()


def _batches(path: Path) -> int:
    try:
        return len(read(path)) if path.exists() else 0
    except RegrowError:  # no complete batch yet
        return 0
