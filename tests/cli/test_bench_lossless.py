"""`regrow bench --lossless` on a tiny shape: output, result file and refusals, but not how long it takes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from command import run, words
from regrow.bench import shapes
from regrow.bench.lossless.result import LosslessResult
from regrow.bench.lossless.run import LosslessPlan
from regrow.bench.shapes import Shape

OPTIONS = ("--lossless", "--cpu", "--shape", "tiny", "--batch-size", 2, "--prompt", 4, "--new", 12)


@pytest.fixture(autouse=True)
def tiny_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(shapes.SHAPES, "tiny", Shape("tiny", "qwen2", 2, 64, 128, 4, 2, 16, 100, True))  # type: ignore[misc]


def test_it_times_drafts_beside_dense(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    result = run("bench", *OPTIONS, "--repeats", 1, "--draft", "ngram=0.5", "--draft", "mask", "--out", out)
    assert result.exit_code == 0, result.output
    assert "tiny, batch 2, prompt 4 + 12 new tokens" in result.stdout
    assert "50.0 %" in result.stdout
    rows = LosslessResult.load(out).rows
    assert [(row.label, row.rows, row.agreement) for row in rows] == [
        ("dense", 2, None),
        ("ngram", 2, 0.5),
        ("mask", 2, 0.92),
    ]


def test_json_is_all_that_is_printed() -> None:
    result = run("bench", *OPTIONS, "--repeats", 1, "--draft", "ngram", "--json")
    assert result.exit_code == 0, result.output
    assert [row["label"] for row in json.loads(result.stdout)["lossless"]["rows"]] == ["dense", "ngram"]


def test_what_is_measured_unasked_is_what_the_help_says(monkeypatch: pytest.MonkeyPatch) -> None:
    plans: list[LosslessPlan] = []
    monkeypatch.setattr("regrow.cli.bench_lossless.run", lambda plan, listener, keep: plans.append(plan))
    for options in ((), ("--quick",)):
        assert run("bench", "--lossless", "--cpu", "--shape", "tiny", *options).exit_code == 0
    full, quick = plans
    told = words(run("bench", "--help").stdout)
    for name in ("prompt", "new", "repeats"):
        assert re.search(
            rf"Default: {getattr(full, name)}\b[^)]*with --quick --lossless {getattr(quick, name)}\)", told
        ), name
    assert "Default: four-bit, ngram and mask (with --quick four-bit and ngram)" in told
    assert [[*plan.agreements] for plan in plans] == [["four-bit", "ngram", "mask"], ["four-bit", "ngram"]]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--draft", "ngram"], "--draft chooses the drafts of --lossless; add --lossless"),
        (["--lossless", "--draft", "x"], "--draft 'x' is unknown; choose from four-bit, ngram"),
        (
            ["--lossless", "--draft", "ngram=2"],
            "--draft ngram=2: the share of right tokens is a number from 0",
        ),
        (["--lossless", "--draft", "ngram=x"], "--draft ngram=x: the share of right tokens is a number"),
        (
            ["--lossless", "--draft", "mask-four-bit"],
            "how often mask-four-bit is right was not measured; give a share, as mask-four-bit=0.9",
        ),
        (["--lossless", "--method", "bap"], "--lossless times drafts on random weights; leave out MODEL"),
        (["--lossless", "--prompt", "4", "--prompt", "8"], "--lossless takes one --prompt"),
    ],
)
def test_what_does_not_fit_is_refused(given: list[str], said: str) -> None:
    result = run("bench", "--cpu", *given)
    assert result.exit_code == 2
    assert said in result.stderr
