"""`regrow calibrate`, and the use of what it makes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from command import lines, run
from regrow.bundled.problems import exercise
from regrow.calibration.calibration import Calibration
from regrow.models import load


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.jsonl"
    path.write_text(
        "".join(json.dumps({"text": exercise(f"text-{number}").solution}) + "\n" for number in range(20))
    )
    return path


def _calibrate(model: Path, text: Path, *options: object) -> Any:
    return run("calibrate", model, "--text", text, "--sequences", 4, "--length", 64, *options)


def _generate(model: Path, *options: object) -> Any:
    prompts = [
        part for text in ("A add 1 2", "B rev ab", "C sort 312", "D par 0110") for part in ("--prompt", text)
    ]
    return run("generate", model, *prompts, "--max-new-tokens", 12, "--no-chat", *options)


@pytest.mark.parametrize("method", ["teal", "cats", "wina", "wanda", "sparsegpt"])
def test_what_it_makes_is_what_the_method_takes(tiny: Path, text: Path, tmp_path: Path, method: str) -> None:
    path = tmp_path / "made.safetensors"
    result = _calibrate(tiny, text, "--method", method, "--out", path, "--json")
    assert result.exit_code == 0, result.output
    (shown,) = lines(result.stdout)
    made = Calibration.load(path)
    assert shown["digest"] == made.digest
    assert (shown["method"], shown["sequences"], shown["tokens"], shown["longest"]) == (method, 4, 256, 64)
    answered = _generate(tiny, "--method", method, "--calibration", path, "--json")
    assert answered.exit_code == 0, answered.output
    summary = lines(answered.stdout)[-1]
    assert summary["method"]["name"] == method
    assert 0 < summary["actual_sparsity"] < 1


def test_parameters_without_an_option_of_their_own(tiny: Path, text: Path, tmp_path: Path) -> None:
    path = tmp_path / "made.safetensors"
    assert (
        _calibrate(
            tiny, text, "-m", "wanda", "-P", "pattern=unstructured", "-s", "0.25", "-o", path
        ).exit_code
        == 0
    )
    assert dict(Calibration.load(path).origin.params) == {"sparsity": 0.25, "pattern": "unstructured"}
    used = _generate(
        tiny,
        "-m",
        "wanda",
        "-P",
        "pattern=unstructured",
        "-P",
        "sparsity=0.25",
        "--calibration",
        path,
        "--json",
    )
    assert lines(used.stdout)[-1]["actual_sparsity"] == pytest.approx(0.25, abs=0.02)


def test_a_record_names_its_calibration(tiny: Path, text: Path, tmp_path: Path) -> None:
    path, records = tmp_path / "made.safetensors", tmp_path / "teal.jsonl"
    _calibrate(tiny, text, "-m", "teal", "-o", path)
    sizes = ["--limit", 2, "--max-new-tokens", 4, "--no-chat", "-o", records]
    result = run("evaluate", tiny, "--task", "tiny_reasoner", "-m", "teal", "--calibration", path, *sizes)
    assert result.exit_code == 0, result.output
    params = json.loads(records.read_text().splitlines()[0])["config"]["params"]
    assert params["calibration"] == Calibration.load(path).digest[:12]


def test_a_checkpoint_is_a_plain_model(tiny: Path, text: Path, tmp_path: Path) -> None:
    directory = tmp_path / "pruned"
    result = _calibrate(tiny, text, "-m", "wanda", "--checkpoint", directory)
    assert result.exit_code == 0, result.output
    assert "4 sequences, 256 tokens" in result.stdout
    model, dense = AutoModelForCausalLM.from_pretrained(directory), load(tiny).model
    AutoTokenizer.from_pretrained(directory)
    for name, weight in model.named_parameters():
        theirs = dense.get_parameter(name)
        if "_proj.weight" in name:
            groups = weight.reshape(len(weight), -1, 4)
            assert ((groups == 0).sum(dim=-1) == 2).all()
            assert torch.equal(weight[weight != 0], theirs[weight != 0])
        else:
            assert torch.equal(weight, theirs)


def test_a_checkpoint_that_fails_leaves_nothing(
    tiny: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tokenizer is written last. On a full disk its writer raises an error that is no OSError."""

    def full(*_: object, **__: object) -> None:
        raise Exception("No space left on device (os error 28)\n at some place")

    monkeypatch.setattr(PreTrainedTokenizerBase, "save_pretrained", full)
    said = _refused(1, _calibrate(tiny, text, "-m", "wanda", "--checkpoint", tmp_path / "pruned"))
    assert (
        "pruned cannot be written: No space left on device (os error 28); "
        "make room or choose another --checkpoint" in said
    )
    assert list(tmp_path.iterdir()) == []


def _refused(code: int, result: Any) -> str:
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr.startswith("regrow: error: ")
    assert result.stderr.count("\n") == 1
    return str(result.stderr)


def test_a_text_that_is_too_short(tiny: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.txt"
    short.write_text("A add 1 2\n" * 3)
    said = _refused(2, _calibrate(tiny, short, "-m", "teal", "-o", tmp_path / "made"))
    assert (
        "gives 0 sequences of 64 tokens, and 4 are asked for; "
        "give more text, or lower --sequences or --length" in said
    )
    assert not (tmp_path / "made").exists()


def test_bad_text(tiny: Path, tmp_path: Path) -> None:
    broken, strange = tmp_path / "broken.jsonl", tmp_path / "strange.jsonl"
    broken.write_text('{"text": "A add 1 2"}\n{"text": \n')
    strange.write_text('{"prompt": "A add 1 2"}\n')
    assert "broken.jsonl, line 2 is not valid JSON" in _refused(
        2, _calibrate(tiny, broken, "-m", "teal", "-o", tmp_path / "made")
    )
    assert 'line 1 holds no "text"' in _refused(
        2, _calibrate(tiny, strange, "-m", "teal", "-o", tmp_path / "made")
    )
    assert "cannot be read: No such file" in _refused(
        2, _calibrate(tiny, tmp_path / "none", "-m", "teal", "-o", tmp_path / "made")
    )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["-m", "bap", "-o", "made"], "method 'bap' with these parameters needs no calibration"),
        (["-m", "teal"], "there is nowhere to write to: give --out FILE, or --checkpoint DIR"),
        (["-m", "teal", "--checkpoint", "made"], "method 'teal' changes no weights"),
        (["-m", "wanda", "-s", "0.3", "-o", "made"], "the pattern 2:4 drops half of the weights, not 0.3"),
        (
            ["-m", "wanda", "-P", "pattern=4:8", "-o", "made"],
            "unknown pattern '4:8'; choose one of 2:4, unstructured",
        ),
        (
            ["-m", "teal", "-P", "depth=3", "-o", "made"],
            "method 'teal' has no parameter 'depth'; it takes sparsity",
        ),
        (
            ["-m", "teal", "-P", "ffn_only=perhaps", "-o", "made"],
            "parameter ffn_only takes true or false, not 'perhaps'",
        ),
        (["-m", "teal", "-P", "ffn_only", "-o", "made"], "--param takes NAME=VALUE"),
        (
            ["-m", "teal", "-s", "0.5", "-P", "sparsity=0.4", "-o", "made"],
            "sparsity is given twice; leave out one",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(
    tiny: Path, text: Path, tmp_path: Path, options: list[str], sentence: str
) -> None:
    given = [str(tmp_path / value) if value == "made" else value for value in options]
    assert sentence in _refused(2, _calibrate(tiny, text, *given))
    assert list(tmp_path.iterdir()) == []


def test_a_calibration_that_does_not_fit_its_use(tiny: Path, text: Path, tmp_path: Path) -> None:
    path = tmp_path / "made.safetensors"
    _calibrate(tiny, text, "-m", "teal", "-o", path)
    assert "not for teal (sparsity=0.6)" in _refused(
        2, _generate(tiny, "-m", "teal", "-s", "0.6", "--calibration", path)
    )
    assert "not for cats" in _refused(2, _generate(tiny, "-m", "cats", "--calibration", path))
    assert "needs a calibration of this model" in _refused(2, _generate(tiny, "-m", "teal"))
    assert "takes no calibration" in _refused(2, _generate(tiny, "-m", "griffin", "--calibration", path))
    other = tmp_path / "other"
    loaded = load(tiny)
    with torch.no_grad():
        loaded.model.get_parameter("model.layers.0.mlp.up_proj.weight").mul_(2)
    loaded.model.save_pretrained(other)
    loaded.tokenizer.save_pretrained(other)
    assert "not for this model" in _refused(2, _generate(other, "-m", "teal", "--calibration", path))
    path.write_bytes(path.read_bytes()[:100])
    assert "is damaged" in _refused(1, _generate(tiny, "-m", "teal", "--calibration", path))


def test_2_4_needs_widths_of_fours(tiny: Path, text: Path, tmp_path: Path) -> None:
    config = AutoConfig.from_pretrained(tiny)
    config.intermediate_size = 66
    odd = tmp_path / "odd"
    AutoModelForCausalLM.from_config(config).save_pretrained(odd)
    AutoTokenizer.from_pretrained(tiny).save_pretrained(odd)
    said = _refused(2, _calibrate(odd, text, "-m", "sparsegpt", "-o", tmp_path / "made"))
    assert "model.layers.0.mlp.down_proj" in said
    assert "66 inputs" in said
    assert not (tmp_path / "made").exists()


def test_an_output_that_cannot_be_written(tiny: Path, text: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot be written" in _refused(
        2, _calibrate(tiny, text, "-m", "teal", "-o", tmp_path / "file" / "made")
    )
    (tmp_path / "there").mkdir()
    assert "exists already" in _refused(
        2, _calibrate(tiny, text, "-m", "wanda", "--checkpoint", tmp_path / "there")
    )
