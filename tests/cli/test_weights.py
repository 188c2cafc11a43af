"""`--weights int4`: rounded models have their own name, records, calibrations and files of answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import regrow
from command import lines, run
from regrow.adapter.rounded import packed_blocks
from regrow.bench import shapes
from regrow.bench.roofline import weights_of
from regrow.bench.shapes import Shape
from regrow.cli import load_model
from regrow.core import Site
from regrow.hosts.round_weights import round_weights

INT4 = ("--weights", "int4")
ROUNDED = "were rounded to 4 bits, with an error of"


def _generate(model: Path, *options: object) -> Any:
    return run(
        "generate", model, "--prompt", "A add 1 2", "--max-new-tokens", 12, "--init-steps", 3, *options
    )


def _refused(result: Any, code: int, said: str) -> None:
    assert result.exit_code == code
    assert said in result.stderr, result.stderr


def test_the_summary_names_the_weights_and_the_error_is_printed(tiny: Path) -> None:
    stored, rounded = _generate(tiny), _generate(tiny, *INT4)
    assert rounded.exit_code == 0, rounded.output
    assert f"{tiny.name} (int4), float32 on cpu" in rounded.stdout
    assert rounded.stderr.count(ROUNDED) == 1
    assert " % of their norm" in rounded.stderr
    assert f"{tiny.name}, float32 on cpu" in stored.stdout
    assert ROUNDED not in stored.stderr
    answers = [lines(_generate(tiny, "--json", *more).stdout) for more in ((), INT4)]
    assert answers[0][0]["tokens"] != answers[1][0]["tokens"]
    assert answers[1][-1]["model"] == f"{tiny} (int4)"
    _refused(_generate(tiny, "--weights", "int3"), 2, "unknown weights 'int3'")


def test_the_bar_shows_the_layers(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[object] = []
    for name in ("begin", "show"):
        monkeypatch.setattr(load_model.Bar, name, lambda _, *given: shown.append(given))
    load_model.load(str(tiny), weights="int4")
    assert shown == [
        (f"rounding the weights of {tiny}", 2),
        (1, "1 of 2 layers"),
        (2, "2 of 2 layers"),
    ]


def test_a_file_of_answers_continues_with_the_same_weights_alone(tiny: Path, tmp_path: Path) -> None:
    for mine, other, said in ((INT4, (), 'weights is "int4" there'), ((), INT4, 'and "int4" here')):
        path = tmp_path / f"{len(mine)}.jsonl"
        assert _generate(tiny, "--output", path, *mine).exit_code == 0
        before = path.read_bytes()
        _refused(_generate(tiny, "--output", path, *other), 2, said)
        assert path.read_bytes() == before
        assert "already; they are not decoded again" in _generate(tiny, "--output", path, *mine).stdout


def _evaluate(model: Path, out: Path, *options: object) -> Any:
    size = ("--limit", 2, "--batch-size", 2, "--max-new-tokens", 8)
    return run(
        "evaluate", model, "--task", "tiny_reasoner", "--out", out, *size, "--method", "dense", *options
    )


def test_records_name_the_weights_and_continue_with_them_alone(tiny: Path, tmp_path: Path) -> None:
    for mine, other in ((INT4, ()), ((), INT4)):
        path = tmp_path / f"{len(mine)}.jsonl"
        result = _evaluate(tiny, path, *mine)
        assert result.exit_code == 0, result.output
        record = json.loads(path.read_text().splitlines()[0])
        text = json.dumps(record)
        assert ("(int4)" in text) == bool(mine)
        assert ('"int4": "rounded weights"' in text) == bool(mine)
        _refused(_evaluate(tiny, path, *other), 1, 'model is "tiny')
        assert _evaluate(tiny, path, *mine).exit_code == 0


def test_a_calibration_fits_the_same_weights_alone(tiny: Path, tmp_path: Path) -> None:
    text, path = tmp_path / "text.txt", tmp_path / "teal.safetensors"
    text.write_text("A add 1 2 " * 200)
    size = ("--text", text, "--sequences", 2, "--length", 40)
    made = run("calibrate", tiny, "--method", "teal", *size, "--out", path, *INT4)
    assert made.exit_code == 0, made.output
    asked = ("generate", tiny, "--prompt", "A add 1 2", "--max-new-tokens", 4, "--method", "teal")
    assert run(*asked, "--calibration", path, *INT4).exit_code == 0
    _refused(run(*asked, "--calibration", path), 2, "the calibration was made for")


def test_comparisons_and_inspections_take_them(tiny: Path, tmp_path: Path) -> None:
    size = ("--task", "tiny_reasoner", "--limit", 2, "--traced", 2, "--max-new-tokens", 6, "--batch-size", 2)
    result = run("compare", tiny, *size, "--method", "bap", "--out", tmp_path / "compared", *INT4)
    assert result.exit_code == 0, result.output
    assert "tiny (int4)" in (tmp_path / "compared" / "table.md").read_text()
    asked = ("--prompt", "rev abc", "--max-new-tokens", 24, "--init-steps", 3, "--out", tmp_path / "drawn")
    result = run("inspect", *asked, *INT4)
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "drawn" / "inspect.json").read_text())["model"] == "tiny-reasoner (int4)"


def test_a_benchmark_rounds_random_weights_and_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(shapes.SHAPES, "tiny", Shape("tiny", "qwen2", 2, 64, 128, 2, 2, 32, 100, True))  # type: ignore[misc]
    size = ("--cpu", "--shape", "tiny", "--batch-size", 1, "--prompt", 4, "--new", 8, "--repeats", 1)
    path = tmp_path / "made.json"
    result = run("bench", *size, "--method", "griffin", "--turnover", 0.25, "--out", path, *INT4)
    assert result.exit_code == 0, result.output
    assert ROUNDED in " ".join(result.stdout.split())
    found = json.loads(path.read_text())
    assert {row["model"] for row in found["rows"]} == {"tiny (int4)"}
    assert found["settings"]["weights"] == "int4"
    assert 0.02 < found["settings"]["rounding_error"]["tiny"] < 0.2
    _refused(run("bench", *size, "--vllm", "python3", *INT4), 2, "vLLM")
    _refused(run("bench", "--lossless", *INT4), 2, "leave out MODEL")


def test_bytes_of_codes_are_counted_where_steps_read_them() -> None:

    model = Shape("tiny", "qwen2", 2, 64, 128, 2, 2, 32, 100, True).build(torch.bfloat16, torch.device("cpu"))
    before = weights_of(model)
    round_weights(model)
    after, packed = weights_of(model), packed_blocks(model)
    assert after.read_by(None) == before
    if packed is None:  # this CPU multiplies no codes
        assert after == before
        return
    dense, masked = after.read_by(regrow.Dense()), after.read_by(regrow.Griffin(sparsity=0.5))
    assert sum(dense.sites.values()) == packed.nbytes < 0.3 * sum(before.sites.values())
    assert dense.sites[Site.GATE_UP] == pytest.approx(2 * dense.sites[Site.DOWN], rel=0.01)
    assert masked.ffn == before.ffn
    assert masked.sites[Site.QKV] == dense.sites[Site.QKV] < 0.3 * before.sites[Site.QKV]
