"""`regrow compare` on several tasks, on the user's own questions, and on models with large vocabularies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmark_files import write_benchmark
from command import run
from regrow.cli.compare_plan import Asked
from regrow.evaluation import divergence
from regrow.evaluation.scale import FULL, quick
from regrow.evaluation.tasks import TASKS, load
from regrow.evaluation.tasks.benchmark import Benchmark
from regrow.evaluation.tasks.task import TaskRequest
from regrow.models import Loaded
from regrow.models import load as load_model

SMALL = ("--method", "griffin", "--batch-size", 2, "--limit", 2, "--traced", 2, "--max-new-tokens", 4)


def _data(directory: Path) -> Path:
    for source in TASKS.values():
        if isinstance(source, Benchmark):
            write_benchmark(source, directory)
    return directory


def test_every_task_has_a_directory_with_its_tables(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    template = "{question} hello"  # after which the random model does not end at once
    result = run(
        "compare", tiny, "--task", "amc23,tiny-reasoner", "--data-dir", _data(tmp_path),
        "--prompt-template", template, "--out", out, *SMALL,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in out.iterdir()) == ["amc23", "tiny_reasoner"]
    _, said, *lines = result.stderr.splitlines()  # the first is a note about the made file
    assert said.startswith("regrow: 2 cells for each of 2 tasks, 10 batches to run: about ")
    assert [line.split(": ")[1] for line in lines] == ["amc23"] * 5 + ["tiny_reasoner"] * 5
    assert lines[0].startswith("regrow: amc23: dense traces, batch 2: 1 of 1 (cell 1 of 2)")
    for task in ("amc23", "tiny_reasoner"):
        rows = json.loads((out / task / "table.json").read_text())
        assert [row["label"] for row in rows] == ["dense", "GRIFFIN"]
        assert {row["summary"]["config"]["task"] for row in rows} == {task}
    again = run("compare", "--out", out, "--table", *SMALL[:4])
    assert again.exit_code == 0, again.output
    assert again.stdout.count("target sparsity 50.0 %") == 2


def test_own_questions_are_compared(tiny: Path, tmp_path: Path) -> None:
    data = tmp_path / "sums.jsonl"
    data.write_text('{"question": "A add 1 2", "answer": 3}\n' * 2)
    out = tmp_path / "out"
    result = run("compare", tiny, "--data", data, "--match", "number", "--out", out, *SMALL)
    assert result.exit_code == 0, result.output
    rows = json.loads((out / "table.json").read_text())
    assert {row["summary"]["config"]["grader"] for row in rows} == {"number"}


def test_answers_without_grades_are_compared_by_their_divergence_alone(tiny: Path, tmp_path: Path) -> None:
    data, out = tmp_path / "open.jsonl", tmp_path / "out"
    data.write_text('{"question": "A add 1 2"}\n' * 2)
    result = run("compare", tiny, "--data", data, "--match", "none", "--out", out, *SMALL)
    assert result.exit_code == 0, result.output
    rows = json.loads((out / "table.json").read_text())
    assert [row["against_dense"] for row in rows] == [None, None]
    assert (out / "table.md").read_text().count("| not graded | – | – |") == 2
    report = run("report", out, "--out", tmp_path / "report")
    assert report.exit_code == 0, report.output


@pytest.fixture(scope="module")
def bundled() -> Loaded:
    return load_model(device="cpu")


def _asked(**given: int | None) -> Asked:
    sizes = {"limit": None, "traced": None, "max_new_tokens": None, "largest_batch": 16} | given
    return Asked(text=None, size=FULL, **sizes)  # type: ignore[arg-type]


def test_sizes_shrink_to_what_a_task_holds(bundled: Loaded, tmp_path: Path) -> None:
    amc = load("amc23", TaskRequest(data_dir=str(_data(tmp_path))))
    plan = _asked().plan(bundled, amc, tmp_path)
    assert (plan.prompts, plan.traced, plan.traced_tokens) == (40, 40, FULL.max_new_tokens)
    assert bundled.context is not None
    assert FULL.max_new_tokens < plan.max_new_tokens < bundled.context  # what the context leaves
    more = _asked(limit=50, traced=45).plan(bundled, amc, tmp_path)
    assert (more.prompts, more.traced) == (40, 40)
    exercises = _asked().plan(bundled, load("tiny_reasoner"), tmp_path)
    assert (exercises.prompts, exercises.traced, exercises.max_new_tokens) == (200, 48, FULL.max_new_tokens)
    small = Asked(None, None, None, None, quick(10**6), 4).plan(bundled, amc, tmp_path)
    assert (small.prompts, small.traced, small.max_new_tokens) == (8, 4, 600)


def test_traces_take_a_bounded_part_of_the_memory(
    bundled: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, tokens = load("tiny_reasoner"), 16 * 100
    monkeypatch.setattr(divergence, "TRACE_BYTES", 4 * bundled.embeddings * tokens)
    plan = _asked().plan(bundled, task, tmp_path)
    assert (plan.traced, plan.traced_tokens) == (16, 100)  # one batch of the largest size
    asked = _asked(traced=40, max_new_tokens=300).plan(bundled, task, tmp_path)
    assert (asked.traced, asked.traced_tokens, asked.max_new_tokens) == (40, 40, 300)
