"""`regrow demo` on a tiny random model and on the bundled model, and its view with made-up answers."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from command import lines, run
from regrow.bundled.problems import Exercise, Problem, heldout
from regrow.cli import demo_view
from regrow.cli.demo import RUNS
from regrow.counters import Counters
from regrow.evaluation.demo import Run, answer
from regrow.models import load
from regrow.report import Report

EXERCISES = [
    Exercise(
        (Problem("reverse", "rev ab", "ab| b|a", "ba"), Problem("parity", "par 01", "01>0 1>0 >1", "odd"))
    ),
    Exercise((Problem("reverse", "rev cd", "cd| d|c", "dc"),)),
]


def _run(label: str, *texts: str, seconds: float = 1.0) -> Run:
    marks = [exercise.marks(text) for exercise, text in zip(EXERCISES, texts, strict=True)]
    times = {"prefill_seconds": 0.5, "decode_seconds": seconds}
    ends = {"tokens": [5, 5], "finish_reasons": ["eos", "eos"]}
    report = Report(
        {"name": label},
        0.5,
        Counters(decode_steps=8, sparse_steps=4, weights_kept=75, weights_dense=100, **times, **ends),
    )
    return Run(label, [list(text.encode()) for text in texts], list(texts), marks, report)


@pytest.fixture
def runs() -> list[Run]:
    dense = _run("dense", EXERCISES[0].solution, EXERCISES[1].solution, seconds=2.0)
    return [dense, _run("bap 50 %", "A ab| b|a =bb\nno second line", EXERCISES[1].solution)]


def _shown(tiny: Path, runs: list[Run]) -> str:
    console = Console(width=100, record=True, highlight=False, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    demo_view.show(console, load(tiny), EXERCISES, runs, 7)
    return console.export_text()


def test_the_view_shows_the_prompt_that_differs_most_problem_by_problem(tiny: Path, runs: list[Run]) -> None:
    text = _shown(tiny, runs)
    assert "held-out prompt 7, one of 2" in text
    assert "A rev ab   answer: ba" in text
    assert "✓ ba" in text
    assert "✗ bb" in text
    assert "B par 01   answer: odd" in text
    assert "– none" in text
    swapped = [runs[0], replace(runs[1], texts=runs[1].texts[::-1], marks=[(True, True), (False,)])]
    assert "held-out prompt 8" in _shown(tiny, swapped)


def test_the_table_counts_and_compares(tiny: Path, runs: list[Run]) -> None:
    text = _shown(tiny, runs)
    assert "3/3 (100.0 %)" in text
    assert "1/3 (33.3 %)" in text
    assert "2.00×" in text  # the same tokens in half the time
    assert "overhead" in text


def test_a_run_that_was_all_dense_says_so(tiny: Path, runs: list[Run]) -> None:
    assert "dense:" not in _shown(tiny, runs)
    counters = Counters(
        decode_steps=8, weights_kept=100, weights_dense=100, tokens=[9, 5], finish_reasons=["eos", "eos"]
    )
    dense = replace(runs[1], report=Report({"name": "bap", "init_steps": 16}, 0.5, counters))
    text = " ".join(_shown(tiny, [runs[0], dense]).split())
    assert (
        "bap 50 %: every decode step was dense: pruning begins after 16 of them (init_steps), "
        "and the longest answer has 9" in text
    )


def test_the_lossless_run_says_how_many_answers_are_the_dense_ones(tiny: Path, runs: list[Run]) -> None:
    dense = runs[0]
    counted = replace(dense.report.counters, drafted=40, drafts_kept=30, sample_passes=16)
    same = replace(dense, label="lossless", lossless=True, report=replace(dense.report, counters=counted))
    assert "lossless: same tokens as dense: all; 30 of 40 drafts were kept" in _shown(tiny, [dense, same])
    other = replace(same, tokens=[dense.tokens[0], [*dense.tokens[1], 1]])
    text = " ".join(_shown(tiny, [dense, other]).split())
    assert "lossless: same tokens as dense: 1 of 2 answers, because rounding" in text
    assert "same tokens as dense" not in _shown(tiny, runs)
    found = list(demo_view.to_json(load(tiny), EXERCISES, [dense, other], 7))
    assert [(value["label"], value["lossless"], value["same_answers_as_dense"]) for value in found] == [
        ("dense", False, 2),
        ("lossless", True, 1),
    ]


def test_nothing_is_wider_than_100_columns(tiny: Path, runs: list[Run]) -> None:
    long = replace(runs[1], texts=["A " + "x" * 300 + " =bb", runs[1].texts[1]])
    assert max(map(len, _shown(tiny, [runs[0], long]).splitlines())) <= 100


def test_a_run_answers_within_the_longest_solution_and_some_slack(tiny: Path) -> None:
    exercises, limits = heldout(2), []

    def watch(limit: int) -> Any:
        limits.append(limit)
        return lambda progress: None

    loaded = load(tiny)
    loaded.model.config.max_position_embeddings = 2000
    done = answer(loaded, exercises, "bap", {"sparsity": "0.5", "init_steps": 2}, watch)
    longest = max(len(exercise.solution) for exercise in exercises)  # a character is a token
    assert longest < limits[0] < 1.5 * longest
    assert done.label == "bap 50 %"
    assert done.marks == [exercise.marks(text) for exercise, text in zip(exercises, done.texts, strict=True)]
    assert done.report.counters.new_tokens <= 2 * limits[0]


def test_the_command_runs_every_method_on_the_same_prompts(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("regrow.models.loading.model_path", lambda: tiny)
    result = run("demo", "--json", "--batch-size", 1, "--start", 21)
    assert result.exit_code == 0, result.output
    runs = lines(result.stdout)
    assert [value["method"]["name"] for value in runs] == [setting.method for setting in RUNS]
    assert [value["target_sparsity"] for value in runs] == [
        float(setting.parameters.get("sparsity", 0)) for setting in RUNS
    ]
    assert [value["lossless"] for value in runs] == [setting.lossless for setting in RUNS]
    assert [value["same_answers_as_dense"] for value in runs if value["label"] in ("dense", "lossless")] == [
        1,
        1,
    ]
    for value in runs:
        assert [prompt["id"] for prompt in value["prompts"]] == ["heldout-21"]
        assert value["right"] == sum(sum(prompt["right"]) for prompt in value["prompts"])


def test_what_is_shown_can_be_saved_as_a_picture(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("regrow.models.loading.model_path", lambda: tiny)
    monkeypatch.setattr(
        sys.modules["regrow.cli.demo"], "RUNS", RUNS[:1]
    )  # `regrow.cli.demo` as an attribute is the command
    result = run("demo", "--batch-size", 1, "--svg", tmp_path / "demo.svg")
    assert result.exit_code == 0, result.output
    picture = (tmp_path / "demo.svg").read_text()
    assert picture.startswith("<svg")
    assert "the&#160;whole&#160;batch" in picture
    assert run("demo", "--svg", tmp_path / "demo.svg", "--json").exit_code == 2
    result = run("demo", "--svg", tmp_path / "demo.svg" / "demo.svg")
    assert result.exit_code == 2
    assert "cannot be written: no file can be made in" in result.stderr


def test_the_bundled_model_answers_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nearly all dense answers are right (results/ says how many), and so are the lossless ones.

    Pruned answers are marked too.
    """
    monkeypatch.setattr(
        sys.modules["regrow.cli.demo"], "RUNS", (*RUNS[:2], *RUNS[-2:])
    )  # a test above runs all, on a smaller model
    result = run("demo", "--json", "--batch-size", 2)
    assert result.exit_code == 0, result.output
    dense, lossless, *pruned = lines(result.stdout)
    assert dense["right"] / dense["problems"] >= 0.75
    assert lossless["right"] / lossless["problems"] >= 0.75
    assert lossless["drafts_kept"] > 0
    assert all(value["problems"] == dense["problems"] for value in pruned)
    assert all(0 < value["actual_sparsity"] <= value["target_sparsity"] for value in pruned)


def test_the_bundled_model_is_the_default_of_generate() -> None:
    exercise = heldout(1)[0]
    result = run("generate", "--json", "--method", "dense", "--prompt", exercise.prompt)
    assert result.exit_code == 0, result.output
    sample, summary = lines(result.stdout)
    assert summary["model"] == "tiny-reasoner"
    assert sample["finish_reason"] == "eos"
    assert any(exercise.marks(sample["text"]))
