"""Mistakes of users give one sentence, an exit code and no traceback, and the same sentence from the API."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

import regrow
from command import run, start
from families import build
from regrow.errors import RegrowError, UsageError
from regrow.method.presets import PRESETS, make
from regrow.models import encode, load


def _refused(code: int, *arguments: object, text: str | None = None) -> str:
    """Returns the error sentence. Nothing else may be on either stream."""
    result = run(*arguments, input=text)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("regrow: error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr.removeprefix("regrow: error: ").strip()


def _generate(model: object, *options: object, prompt: str = "A add 1 2") -> tuple[object, ...]:
    return ("generate", model, "--prompt", prompt, "--max-new-tokens", 4, *options)


# Methods and their parameters, which are checked before the model is looked for.
METHODS: dict[str, tuple[list[object], Callable[[], object], str]] = {
    "negative sparsity": (
        ["--sparsity", "-0.1"],
        lambda: regrow.Griffin(-0.1),
        "sparsity must be a number in [0, 1), not",
    ),
    "sparsity 1": (
        ["--sparsity", "1"],
        lambda: regrow.BatchwiseAdaptive(1),
        "sparsity must be a number in [0, 1), not",
    ),
    "no number": (
        ["--sparsity", "half"],
        lambda: regrow.BatchwiseAdaptive("half"),
        "sparsity must be a number in [0, 1), not 'half'",
    ),
    "NaN": (
        ["--sparsity", "nan"],
        lambda: regrow.BatchwiseAdaptive(float("nan")),
        "sparsity must be a number in [0, 1), not",
    ),
    "init_steps": (
        ["--init-steps", -1],
        lambda: regrow.BatchwiseAdaptive(init_steps=-1),
        "init_steps must be a whole number of at least 0",
    ),
    "explore_steps": (
        ["--explore-steps", -2],
        lambda: regrow.BatchwiseAdaptive(explore_steps=-2),
        "explore_steps must be a whole number",
    ),
    "period 0": (
        ["--period", 0],
        lambda: regrow.BatchwiseAdaptive(period=0),
        "period must be a whole number of at least 1",
    ),
    "short period": (
        ["--period", 2, "--explore-steps", 3],
        lambda: regrow.BatchwiseAdaptive(period=2, explore_steps=3),
        "a period of 2 steps is smaller than its 3 exploration steps",
    ),
    "aggregate": (
        ["--aggregate", "median"],
        lambda: regrow.BatchwiseAdaptive(aggregate="median"),
        "unknown aggregate 'median'; choose one",
    ),
    "memory": (
        ["--memory", "elephant"],
        lambda: regrow.BatchwiseAdaptive(memory="elephant"),
        "unknown memory 'elephant'; choose one",
    ),
    "decay": (["--decay", 2], lambda: regrow.BatchwiseAdaptive(decay=2), "decay must lie in [0, 1], not 2"),
    "no decay": (
        ["-P", "decay=old"],
        lambda: regrow.BatchwiseAdaptive(decay="old"),
        "parameter decay takes a number, not 'old'",
    ),
    "no flag": (
        ["-m", "teal", "-P", "ffn_only=no"],
        lambda: make("teal", ffn_only="no"),
        "parameter ffn_only takes true or false, not 'no'",
    ),
    "no word": (
        ["-m", "wanda", "-P", "pattern=4:8"],
        lambda: make("wanda", pattern="4:8"),
        "unknown pattern '4:8'; choose one of",
    ),
    "method": (
        ["--method", "magic"],
        lambda: make("magic"),
        f"unknown method 'magic'; choose one of {', '.join(PRESETS)}",
    ),
    "parameter": (
        ["-m", "griffin", "--period", 9],
        lambda: make("griffin", period=9),
        "method 'griffin' has no parameter 'period'; it takes",
    ),
    "none": (
        ["-m", "dense", "--period", 9],
        lambda: make("dense", period=9),
        "method 'dense' has no parameter 'period'; it takes none",
    ),
}


@pytest.mark.parametrize("name", METHODS)
def test_methods(name: str) -> None:
    options, call, sentence = METHODS[name]
    assert _refused(2, *_generate("/no/such/model", *options)).startswith(sentence)
    assert _refused(2, "evaluate", "/no/such/model", "--out", "/no/such/file", *options).startswith(sentence)
    with pytest.raises(UsageError) as raised:
        call()
    assert str(raised.value).startswith(sentence)


def test_a_sparsity_that_keeps_no_neuron(tiny: Path) -> None:
    sentence = "sparsity 0.9999 keeps none of 64 neurons; lower it to at most 0.984375"
    assert _refused(2, *_generate(tiny, "--sparsity", "0.9999")) == sentence
    with pytest.raises(UsageError) as raised, regrow.prune(load(tiny).model, regrow.Griffin("0.9999")):
        pass
    assert str(raised.value) == sentence


# Model directories.


def _unreadable(model: Path, code: int, *sentence: str) -> None:
    said = _refused(code, *_generate(model))
    assert all(part in said for part in sentence)
    with pytest.raises(RegrowError) as raised:
        load(model)
    assert str(raised.value) == said
    assert raised.value.exit_code == code


def test_no_such_model(tmp_path: Path) -> None:
    _unreadable(tmp_path / "missing", 2, f"no model directory '{tmp_path / 'missing'}'", "give a directory")


def test_a_model_the_hub_does_not_give() -> None:
    """Tests run offline, so every download fails."""
    assert (
        "nobody/nothing-here' is not a local directory, and downloading it from the hub failed"
        in _refused(2, *_generate("nobody/nothing-here"))
    )


def test_a_directory_without_a_model(tmp_path: Path) -> None:
    _unreadable(tmp_path, 2, "holds no config.json")


def test_a_directory_without_safetensors(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "copy")
    (tmp_path / "copy" / "model.safetensors").rename(tmp_path / "copy" / "pytorch_model.bin")
    _unreadable(tmp_path / "copy", 2, "holds no safetensors files", "convert the weights")


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_truncated_safetensors_file(tiny: Path, tmp_path: Path, share: float) -> None:
    shutil.copytree(tiny, tmp_path / "copy")
    weights = tmp_path / "copy" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: int(share * weights.stat().st_size)])
    _unreadable(tmp_path / "copy", 1, str(weights), "is damaged", "download or copy it again")


def test_a_model_without_gated_ffns(tiny: Path, tmp_path: Path) -> None:
    build("gpt_neox").save_pretrained(tmp_path)
    PreTrainedTokenizerFast.from_pretrained(tiny).save_pretrained(tmp_path)
    said = _refused(2, *_generate(tmp_path))
    assert "gated" in said
    with pytest.raises(UsageError) as raised, regrow.prune(load(tmp_path).model, regrow.Griffin()):
        pass
    assert str(raised.value) == said


# Number formats and devices.


def test_an_unknown_dtype(tiny: Path) -> None:
    assert _refused(2, *_generate(tiny, "--dtype", "int3")).startswith(
        "unknown dtype 'int3'; choose one of auto, float32"
    )
    with pytest.raises(UsageError, match="unknown dtype 'int3'"):
        load(tiny, dtype="int3")


def test_a_dtype_the_device_cannot_do(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("\"silu_cpu\" not implemented for 'Half'\nand more lines")

    monkeypatch.setattr(torch.nn.functional, "silu", fail)
    said = _refused(2, *_generate(tiny, "--dtype", "float16"))
    assert said.startswith("device cpu cannot compute in float16: \"silu_cpu\" not implemented for 'Half'")
    with pytest.raises(UsageError, match="cannot compute in float16"):
        load(tiny, dtype="float16")


@pytest.mark.parametrize(
    "device",
    [
        "warp",
        pytest.param("cuda", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is here")),
    ],
)
def test_a_device_that_is_not_there(tiny: Path, device: str) -> None:
    assert _refused(2, *_generate(tiny, "--device", device)).startswith(
        f"device {device!r} cannot be used here: "
    )
    with pytest.raises(UsageError, match="cannot be used here"):
        load(tiny, device=device)


# Prompts.


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_no_prompts(tiny: Path, text: str) -> None:
    assert _refused(2, "generate", tiny, text=text).startswith("there are no prompts: give --prompt")
    with pytest.raises(UsageError, match="there are no prompts"):
        encode(load(tiny), [])


def test_an_empty_prompt(tiny: Path) -> None:
    assert _refused(2, *_generate(tiny, "--prompt", " ")) == "prompt 2 is empty; give it at least one token"
    with pytest.raises(UsageError, match="prompt 2 is empty"):
        encode(load(tiny), ["A", " "])


def test_a_prompt_longer_than_the_context(tiny: Path) -> None:
    """It is found before any batch is decoded."""
    sentence = "prompt 2 has 602 tokens, which leaves no room in the context of 512; shorten it"
    assert _refused(2, *_generate(tiny, "--prompt", "A" * 600, "--batch-size", 1)) == sentence
    with pytest.raises(UsageError) as raised:
        encode(load(tiny), ["A", "A" * 600])
    assert str(raised.value) == sentence
    with pytest.raises(UsageError, match="leaves no room"):
        regrow.generate(load(tiny).model, torch.ones(1, 600, dtype=torch.int64))


def test_an_answer_longer_than_the_context(tiny: Path) -> None:
    said = _refused(
        2, "generate", tiny, "-p", "A", "-p", "A" * 500, "--batch-size", 1, "--max-new-tokens", 90
    )
    assert (
        said
        == "prompt 2 has 502 tokens, so --max-new-tokens 90 does not fit the context of 512; at most 10 do"
    )


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("p.jsonl", '{"prompt": "A"}\n\n{"prompt": \n', "line 3 is not valid JSON"),
        ("p.jsonl", '{"prompt": "A"}\nA add 1 2\n', "line 2 is not valid JSON"),
        ("p.jsonl", '{"question": "A"}\n', 'line 1 holds no "prompt" text'),
        ("p.jsonl", '["prompt"]\n', 'line 1 holds no "prompt" text'),
        ("p.jsonl", '{"prompt": 3}\n', 'line 1 holds no "prompt" text'),
    ],
)
def test_invalid_json_lines_are_named(
    tiny: Path, tmp_path: Path, name: str, content: str, sentence: str
) -> None:
    path = tmp_path / name
    path.write_text(content)
    assert _refused(2, "generate", tiny, "--prompts", path).startswith(f"{path}, {sentence}")
    if content.startswith("{"):
        assert _refused(2, "generate", tiny, text=content).startswith(f"standard input, {sentence}")


def test_a_prompt_file_that_cannot_be_read(tiny: Path, tmp_path: Path) -> None:
    assert (
        _refused(2, "generate", tiny, "--prompts", tmp_path / "no")
        == f"{tmp_path / 'no'} cannot be read: No such file or directory"
    )
    assert (
        _refused(2, "generate", tiny, "--prompts", tmp_path) == f"{tmp_path} cannot be read: Is a directory"
    )
    (tmp_path / "latin").write_bytes(b"A\nB \xe9")
    assert "is not UTF-8 text (byte 4, line 2); convert it" in _refused(
        2, "generate", tiny, "--prompts", tmp_path / "latin"
    )


# Settings of the command itself.


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--top-p", 0.9], "--top-p is for sampling, and decoding is greedy without --temperature above 0"),
        (["--seed", 1, "--temperature", 0], "--seed is for sampling"),
        (["--temperature", -1], "--temperature must be a number of at least 0, not -1.0"),
        (["--temperature", "nan"], "--temperature must be a number of at least 0, not nan"),
        (["--temperature", 1, "--top-p", 0], "--top-p must lie in (0, 1], not 0.0"),
        (["--temperature", 1, "--seed", -1], "--seed must be a whole number"),
        (["--skip-layers", "0;1"], "--skip-layers takes layer numbers such as 0,1,5, not '0;1'"),
        (["--skip-layers", "2"], "skip_layers names layer 2, but the model has layers 0 to 1"),
        (["--skip-layers", "0,1"], "skip_layers leaves no layer to prune"),
        (["--draft", "ngram"], "--draft is for lossless decoding; add --lossless or leave --draft out"),
        (["--window", 4], "--window is for lossless decoding; add --lossless or leave --window out"),
        (["--lossless", "--draft", "oracle"], "unknown draft 'oracle'; choose one of auto, four-bit, ngram"),
        (["--lossless", "--window", 17], "window is a whole number from 1 to 16, not 17"),
        (["--lossless", "--window", 0], "window is a whole number from 1 to 16, not 0"),
        (["--lossless", "--draft", "mask"], "Masked() guesses with the mask of a method, and dense has none"),
        (["--lossless", "--draft", "mask", "-s", 0], "Masked() guesses with the mask of a method, and bap"),
    ],
)
def test_settings(tiny: Path, options: list[Any], sentence: str) -> None:
    assert _refused(2, *_generate(tiny, *options)).startswith(sentence)


@pytest.mark.parametrize("option", ["--batch-size", "--max-new-tokens"])
def test_sizes_below_one_are_refused_by_the_parser(tiny: Path, option: str) -> None:
    result = run("generate", tiny, "--prompt", "A", option, 0)
    assert result.exit_code == 2
    assert option in result.stderr


def test_no_chat_template(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "copy")
    (tmp_path / "copy" / "chat_template.jinja").unlink()
    assert _refused(2, *_generate(tmp_path / "copy", "--chat")).endswith(
        "has no chat template; pass --no-chat (chat=False)"
    )


@pytest.mark.parametrize("place", ["missing/out.jsonl", "."])
def test_unwritable_output_is_found_before_the_model_is_loaded(tmp_path: Path, place: str) -> None:
    said = _refused(2, *_generate("/no/such/model", "--output", tmp_path / place))
    assert said.startswith(f"{tmp_path / place} cannot be written: ")
    assert said.endswith("choose another --output")


def test_an_earlier_output_survives_a_request_that_fails(tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").write_text("precious\n")
    _refused(2, *_generate("/no/such/model", "--output", tmp_path / "out.jsonl"))
    assert (tmp_path / "out.jsonl").read_text() == "precious\n"


def test_a_full_disk(tiny: Path) -> None:
    """Writing to /dev/full always fails with "No space left on device"."""
    said = _refused(1, *_generate(tiny, "--output", "/dev/full"))
    assert (
        said == "/dev/full cannot be written: No space left on device; make room or choose another --output"
    )


def test_a_process_ends_with_the_code_and_the_sentence_alone(tmp_path: Path) -> None:
    with start("generate", tmp_path / "missing", "--prompt", "A") as process:
        out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (2, "")
    assert err.startswith("regrow: error: no model directory")
    assert err.count("\n") == 1
