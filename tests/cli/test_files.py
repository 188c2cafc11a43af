"""Commands that are given pipes, devices, folders or files of other formats."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import transformers

from command import SCRIPT, lines, run


def _refused(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("regrow: error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr.strip()


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    """A named pipe without a writer or reader."""
    os.mkfifo(tmp_path / "fifo")
    return tmp_path / "fifo"


_OUTPUTS = {
    "calibrate": ("calibrate", "-m", "teal", "--out"),
    "bench": ("bench", "--quick", "--cpu", "--out"),
    "demo": ("demo", "--svg"),
}


@pytest.mark.parametrize("arguments", _OUTPUTS.values(), ids=_OUTPUTS)
def test_a_file_that_cannot_be_is_found_before_the_work(arguments: tuple[str, ...], fifo: Path) -> None:
    """A new file must not replace a device or a pipe either."""
    assert f"{fifo} cannot be written: it is not a regular file; choose another {arguments[-1]}" in _refused(
        *arguments, fifo
    )
    assert f"{fifo.parent} cannot be written: it is a folder" in _refused(*arguments, fifo.parent)
    assert f"no file can be made in {fifo}" in _refused(*arguments, fifo / "below")
    assert "cannot be written: File name too long" in _refused(*arguments, fifo.parent / ("x" * 300))
    assert fifo.is_fifo()


@pytest.mark.parametrize(
    "arguments", [("bench", "--compare"), ("generate", "-p", "a", "-m", "teal", "--calibration")]
)
def test_a_pipe_that_nobody_writes_to_is_not_waited_for(arguments: tuple[str, ...], fifo: Path) -> None:
    assert "is not a regular file;" in _refused(*arguments, fifo)


def test_a_text_from_a_pipe_is_refused(tiny: Path, fifo: Path, tmp_path: Path) -> None:
    said = _refused("calibrate", tiny, "-m", "teal", "--text", fifo, "--out", tmp_path / "out")
    assert said.endswith("fifo is not a regular file; save the text in one")


@pytest.mark.parametrize("content", ["[" * 100_000, '{"rows": "ab"}', "7", '{"rows": [{}]}'])
def test_what_is_no_benchmark_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "bench.json"
    path.write_text(content)
    result = run("bench", "--compare", path)
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "is not a result of `regrow bench`" in result.stderr


_STRUCTURED = {
    "a.json": '["one two", "three"]',
    "b.csv": "id,text\n1,one\n",
    "c.tsv": "id\ttext\n1\tone\n",
    "d.txt": '{"text": "one"}\n{"text": "two"}\n',
    "e": '[\n {"text": "one"}\n]\n',
    "f.txt": '{\n "text": "one"\n}\n',
}


@pytest.mark.parametrize(("name", "content"), _STRUCTURED.items(), ids=_STRUCTURED)
def test_a_text_of_another_format_is_not_read_as_plain(
    tiny: Path, tmp_path: Path, name: str, content: str
) -> None:
    (tmp_path / name).write_text(content * 100 if name != "e" else content)
    if name == "f.txt":
        (tmp_path / name).write_text(content)
    arguments = ("calibrate", tiny, "-m", "teal", "--sequences", 1, "--length", 4, "--out", tmp_path / "out")
    said = _refused(*arguments, "--text", tmp_path / name)
    assert said.endswith('make it plain text, or JSON lines with a "text" field (.jsonl)')
    assert not (tmp_path / "out").exists()


def test_a_text_that_only_begins_like_json_is_plain(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "plain.txt").write_text("[1] A add 1 2\n{set} B rev ab\n" * 10)
    result = run(
        *("calibrate", tiny, "-m", "teal", "--sequences", 1, "--length", 4),
        *("--text", tmp_path / "plain.txt", "--out", tmp_path / "out"),
    )
    assert result.exit_code == 0, result.output


def test_records_come_from_a_pipe_of_the_shell(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    made = run(
        "evaluate",
        tiny,
        "--task",
        "tiny-reasoner",
        "--limit",
        1,
        "--max-new-tokens",
        4,
        "--init-steps",
        0,
        "--out",
        path,
    )
    assert made.exit_code == 0, made.output
    (tmp_path / "records.jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
    code = f"{sys.executable} -c 'from regrow.cli import main; main()' table <(gzip -dc {path}.gz) --json"
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == run("table", path, "--json").stdout


def test_the_package_is_a_command() -> None:
    done = [
        subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=120)
        for command in ([sys.executable, "-m", "regrow"], SCRIPT)
    ]
    assert [(one.returncode, one.stdout, one.stderr) for one in done] == [(0, done[1].stdout, "")] * 2


@pytest.mark.parametrize("parameter", ["name=x", "self=1", "cls=1", "given=1", "=1"])
def test_any_name_may_be_tried_as_a_parameter(parameter: str) -> None:
    assert f"has no parameter {parameter.partition('=')[0]!r}" in _refused(
        "generate", "-p", "a", "-P", parameter
    )


@pytest.mark.parametrize("name", ["~nobody-of-that-name/model", "x" * 300, "a/" + "x" * 300])
def test_a_model_that_cannot_be_opened_is_refused(name: str) -> None:
    assert name[:100] in _refused("generate", name, "-p", "a")


def test_samples_of_other_prompts_are_damage(tiny: Path, tmp_path: Path) -> None:
    """The settings hold a digest of the prompts, but the samples below may have been changed."""
    path = tmp_path / "out.jsonl"
    prompts = ("-p", "A add 1 2", "-p", "B rev ab")
    command = (
        "generate",
        tiny,
        *prompts,
        "--batch-size",
        1,
        "--max-new-tokens",
        3,
        "--init-steps",
        0,
        "-o",
        path,
    )
    assert run(*command).exit_code == 0
    settings, first, second = lines(path.read_text())
    for samples in ([first | {"prompt": "C"}, second], [first, second | {"prompt": first["prompt"]}]):
        path.write_text("".join(json.dumps(value) + "\n" for value in (settings, *samples)))
        before, result = path.read_bytes(), run(*command)
        assert result.exit_code == 1
        assert "is damaged: restore the file or choose another --output" in result.stderr
        assert path.read_bytes() == before


@pytest.mark.parametrize("settings", [{"num_beams": 4}, {"penalty_alpha": 0.6, "top_k": 4}])
def test_an_evaluation_that_cannot_begin_leaves_no_file(
    tiny: Path, tmp_path: Path, settings: dict[str, object]
) -> None:
    model = shutil.copytree(tiny, tmp_path / "model")
    saved = json.loads((model / "generation_config.json").read_text())
    (model / "generation_config.json").write_text(json.dumps(saved | settings))
    arguments = ("--task", "tiny-reasoner", "--limit", 1, "--max-new-tokens", 4, "--init-steps", 0)
    result = run("evaluate", model, *arguments, "--out", tmp_path / "out.jsonl")
    assert result.exit_code in (1, 2)
    assert result.stderr.count("\n") == 1
    assert "generation_config.json" in result.stderr
    assert not (tmp_path / "out.jsonl").exists()


def test_an_evaluation_gives_the_tokenizer_where_a_setting_needs_it(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = shutil.copytree(tiny, tmp_path / "model")
    saved = json.loads((model / "generation_config.json").read_text())
    (model / "generation_config.json").write_text(json.dumps(saved | {"stop_strings": ["="]}))
    given: list[object] = []

    def generate(*_: object, **arguments: object) -> None:
        given.append(arguments["tokenizer"])
        raise KeyboardInterrupt

    monkeypatch.setattr("regrow.evaluation.run_task.generate", generate)
    assert (
        run(
            "evaluate",
            model,
            "--task",
            "tiny-reasoner",
            "--limit",
            1,
            "--max-new-tokens",
            4,
            "--out",
            tmp_path / "out.jsonl",
        ).exit_code
        == 130
    )
    assert isinstance(given[0], transformers.PreTrainedTokenizerBase)
    assert not (tmp_path / "out.jsonl").exists()


def test_a_prompt_is_utf_8_in_a_locale_of_ascii(tiny: Path) -> None:
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = (*SCRIPT, "generate", str(tiny), "-p", "é", "--max-new-tokens", "2", "-m", "dense", "--json")
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ | plain)
    assert (done.returncode, done.stderr) == (0, "")
    assert lines(done.stdout)[0]["prompt"] == "é"


def test_a_table_in_a_very_narrow_terminal_has_all_its_numbers(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "records.jsonl"
    assert (
        run(
            "evaluate",
            tiny,
            "--task",
            "tiny-reasoner",
            "--limit",
            1,
            "--max-new-tokens",
            4,
            "-m",
            "dense",
            "--out",
            path,
        ).exit_code
        == 0
    )
    wide = run("table", path).stdout
    monkeypatch.setenv("COLUMNS", "20")
    code = "from regrow.cli import main; main()"
    narrow = subprocess.run(
        [sys.executable, "-c", code, "table", str(path)], capture_output=True, text=True, timeout=120
    ).stdout
    for shown in ("dense", "0.0 %", "right"):
        assert shown in wide
        assert shown in narrow
