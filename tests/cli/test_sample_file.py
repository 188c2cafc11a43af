"""`generate --output`: no sample is lost, and an interrupted run continues as if it had not stopped."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from command import SCRIPT, lines, run
from regrow.cli.decode_prompts import Decoding
from regrow.cli.sample_file import SampleFile
from regrow.errors import RegrowError

NEW = 24
ROWS = [
    {"id": f"q{number}", "prompt": f"A add {number} 2", "answer": number + 2, "text": "t"}
    for number in range(5)
]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def _run(model: Path, prompts: Path, path: Path, *options: object) -> Any:
    size = () if "--batch-size" in options else ("--batch-size", 2)
    command = ("generate", model, "--prompts", prompts, *size, "--max-new-tokens", NEW, "--init-steps", 3)
    return run(*command, "--output", path, "--json", *options)


def _stop_after(monkeypatch: pytest.MonkeyPatch, batches: int) -> pytest.MonkeyPatch:
    """Raises KeyboardInterrupt when this many batches are complete and the next begins."""
    begun, decode = [0], Decoding._run

    def stop(decoding: Decoding, *arguments: Any) -> Any:
        begun[0] += 1
        if begun[0] > batches:
            raise KeyboardInterrupt
        return decode(decoding, *arguments)

    monkeypatch.setattr(Decoding, "_run", stop)
    return monkeypatch


def test_rows_come_in_the_order_of_the_prompts_with_the_fields_of_their_records(
    tiny: Path, prompts: Path, tmp_path: Path
) -> None:
    result = _run(tiny, prompts, tmp_path / "out.jsonl", "--batch-size", 5)
    assert result.exit_code == 0, result.output
    settings, *samples = lines((tmp_path / "out.jsonl").read_text())
    assert settings["type"] == "settings"
    assert [sample["index"] for sample in samples] == list(range(5))
    assert [sample["index"] for sample in lines(result.stdout)[:-1]] != list(
        range(5)
    )  # otherwise the line above proves nothing
    for row, sample in zip(ROWS, samples, strict=True):
        assert {name: sample[name] for name in ("id", "prompt", "answer")} == {
            name: row[name] for name in ("id", "prompt", "answer")
        }
        assert sample["input_text"] == "t"
        assert sample["text"] != "t"


@pytest.mark.parametrize("sampled", [(), ("--temperature", 1.3, "--seed", 5), ("--temperature", 1.3)])
@pytest.mark.parametrize("batches", [1, 2])
def test_a_stopped_run_goes_on_to_the_samples_of_an_undisturbed_one(
    tiny: Path,
    prompts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    batches: int,
    sampled: tuple[object, ...],
) -> None:
    path, whole = tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        _stop_after(patch, batches)
        stopped = _run(tiny, prompts, path, *sampled)
    assert stopped.exit_code == 130
    assert len(lines(path.read_text())) == 1 + 2 * batches
    decoded: list[int] = []
    decode = Decoding._run
    monkeypatch.setattr(
        Decoding,
        "_run",
        lambda decoding, batch, *others: decoded.append(batch.start) or decode(decoding, batch, *others),
    )
    again = _run(tiny, prompts, path, *sampled)
    assert again.exit_code == 0, again.output
    assert decoded == [0, 2, 4][batches:]
    assert lines(again.stdout)[-1]["kept"] == 2 * batches
    seed = lines(path.read_text())[0]["sampling"].get("seed")
    assert (
        _run(tiny, prompts, whole, *(("--temperature", 1.3, "--seed", seed) if sampled else ())).exit_code
        == 0
    )
    assert lines(path.read_text())[1:] == lines(whole.read_text())[1:]


def test_a_complete_file_is_left_as_it_is(
    tiny: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.jsonl"
    first = _run(tiny, prompts, path)
    before = path.read_bytes()
    _stop_after(monkeypatch, 0)  # nothing may be decoded
    again = _run(tiny, prompts, path)
    assert again.exit_code == 0, again.output
    assert path.read_bytes() == before
    by_index = sorted(lines(first.stdout)[:-1], key=lambda sample: sample["index"])
    assert lines(again.stdout)[:-1] == by_index
    assert lines(again.stdout)[-1]["kept"] == 5
    screen = run(
        "generate",
        tiny,
        "--prompts",
        prompts,
        "--batch-size",
        2,
        "--max-new-tokens",
        NEW,
        "--init-steps",
        3,
        "-o",
        path,
    )
    assert screen.exit_code == 0
    assert screen.stdout == f"5 samples are in {path} already; they are not decoded again\n"


@pytest.mark.parametrize(
    "options",
    [
        ("--sparsity", "0.7"),
        ("--method", "griffin"),
        ("--period", 9),
        ("--skip-layers", "0"),
        ("--batch-size", 3),
        ("--no-chat",),
        ("--dtype", "float64"),
        ("--temperature", 1, "--seed", 3),
        ("--prompt", "A add 9 9"),
    ],
)
def test_other_settings_are_refused_and_the_file_stays(
    tiny: Path, prompts: Path, tmp_path: Path, options: tuple[object, ...]
) -> None:
    path = tmp_path / "out.jsonl"
    assert _run(tiny, prompts, path).exit_code == 0
    before = path.read_bytes()
    command = ("generate", tiny, "--prompts", prompts, "--max-new-tokens", NEW, "--output", path)
    base: tuple[object, ...] = ("--batch-size", 2) if "--batch-size" not in options else ()
    base += ("--init-steps", 3) if "griffin" not in options else ()
    result = run(*command, *base, *options)
    _one_sentence(result, 2, "was made with other settings (")
    assert path.read_bytes() == before


@pytest.mark.parametrize("changed", ["answer", "generation_config", "template", "weights"])
def test_another_model_or_other_records_under_the_same_name_are_refused(
    tiny: Path, prompts: Path, tmp_path: Path, changed: str
) -> None:
    model, path = tmp_path / "model", tmp_path / "out.jsonl"
    shutil.copytree(tiny, model)
    assert _run(model, prompts, path).exit_code == 0
    before = path.read_bytes()
    if changed == "answer":
        prompts.write_text(prompts.read_text().replace('"answer": 3', '"answer": 4'))
    elif changed == "generation_config":
        own = json.loads((model / "generation_config.json").read_text())
        (model / "generation_config.json").write_text(json.dumps({**own, "repetition_penalty": 1.2}))
    elif changed == "template":
        (model / "chat_template.jinja").write_text("Be brief. " + (model / "chat_template.jinja").read_text())
    else:
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-5}))
    _one_sentence(_run(model, prompts, path), 2, "was made with other settings (")
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "content",
    [
        b"precious\n",
        b"precious",
        b'{"prompt": "A"}\n',
        b'{"type": "sample", "index": 0}\n',
        b'{"format":2,"batch":0}\n',
        b"\x89PNG\n\0",
    ],
)
def test_a_file_that_holds_something_else_is_refused_before_the_model_is_looked_for(
    prompts: Path, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "out.jsonl"
    path.write_bytes(content)
    _one_sentence(
        _run(Path("/no/such/model"), prompts, path),
        2,
        "does not hold samples of `regrow generate`",
    )
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "tail", [b'{"type": "sam', b"\0" * 40, b'{"type": "sample", "index": 2, "prompt": "A"}\n']
)
def test_a_torn_batch_is_decoded_again(tiny: Path, prompts: Path, tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "out.jsonl"
    assert _run(tiny, prompts, path).exit_code == 0
    whole = path.read_bytes()
    path.write_bytes(b"".join(whole.splitlines(keepends=True)[:3]) + tail)
    assert _run(tiny, prompts, path).exit_code == 0
    assert path.read_bytes() == whole


@pytest.mark.parametrize("content", [b"", b'{"type": "sett', b'{"type": "settings", "model": "x', b"\0" * 9])
def test_a_file_without_any_sample_begins_anew(
    tiny: Path, prompts: Path, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "out.jsonl"
    path.write_bytes(content)
    assert _run(tiny, prompts, path).exit_code == 0
    assert [value["type"] for value in lines(path.read_text())] == ["settings", *["sample"] * 5]


def test_a_damaged_line_is_named(tiny: Path, prompts: Path, tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    assert _run(tiny, prompts, path).exit_code == 0
    parts = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*parts[:2], b"{oops\n", *parts[3:]]))
    before = path.read_bytes()
    _one_sentence(_run(tiny, prompts, path), 1, "line 3 is damaged")
    assert path.read_bytes() == before


def test_a_request_that_fails_leaves_no_file(tiny: Path, prompts: Path, tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    _one_sentence(_run(Path("/no/such/model"), prompts, path), 2, "no model directory")
    assert not path.exists()
    _one_sentence(_run(tiny, prompts, path, "--sparsity", "0.9999"), 2, "keeps none of")
    assert not path.exists()


def test_a_second_process_waits_outside(tiny: Path, prompts: Path, tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with SampleFile(path):
        _one_sentence(_run(tiny, prompts, path), 1, "is being written by another process")


def test_a_disk_that_fills_up_keeps_whole_batches(
    tiny: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, write, left = tmp_path / "out.jsonl", os.write, [2]

    def full(descriptor: int, data: bytes) -> int:
        left[0] -= 1
        if left[0] >= 0:
            return write(descriptor, data)
        if left[0] == -1:
            return write(descriptor, data[:7])
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("regrow.cli.output_file.os.write", full)
        result = _run(tiny, prompts, path)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == (
        f"regrow: error: {path} cannot be written: No space left on device; "
        "the batches finished before are kept: make room or choose another --output"
    )
    assert len(lines(path.read_text())) == 3
    assert _run(tiny, prompts, path).exit_code == 0
    assert [sample["index"] for sample in lines(path.read_text())[1:]] == list(range(5))


def test_a_pipe_is_written_as_batches_finish(tiny: Path, prompts: Path, tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(path.read_text()))
    reader.start()
    assert _run(tiny, prompts, path).exit_code == 0
    reader.join(timeout=60)
    assert [value["type"] for value in lines(read[0])] == ["settings", *["sample"] * 5]


def test_standard_output_as_a_file_is_refused(tiny: Path, prompts: Path, tmp_path: Path) -> None:
    """The file and standard output would overwrite each other."""
    with (tmp_path / "both").open("wb") as both:
        command = [*SCRIPT, "generate", str(tiny), "--prompts", str(prompts), "-o", "/dev/stdout"]
        done = subprocess.run(
            command, stdout=both, stderr=subprocess.PIPE, text=True, timeout=120, check=False
        )
    assert done.returncode == 2
    assert "is where standard output goes too; use --json" in done.stderr
    assert (tmp_path / "both").read_bytes() == b""


def test_more_samples_than_prompts_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with SampleFile(path) as file:
        file.begin({"a": 1}, 1, ["a"])
        file.write([{"type": "sample", "index": 0}])
        file.write([{"type": "sample", "index": 1}])
    with SampleFile(path) as file, pytest.raises(RegrowError, match="more samples than there are prompts"):
        file.begin({"a": 1}, 1, ["a"])


def _one_sentence(result: Any, code: int, said: str) -> None:
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("regrow: error: ")
    assert result.stderr.count("\n") == 1
    assert said in result.stderr
