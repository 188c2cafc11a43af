"""Standard streams that cannot show Unicode, are full, are closed, or lose their reader."""

from __future__ import annotations

import os
import subprocess
import sys
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

import pytest

from command import SCRIPT, lines, run
from regrow.cli import app
from regrow.cli.terminal import standard_streams

FULL = "regrow: error: standard output cannot be written: No space left on device\n"
CLOSED = "regrow: error: standard output is closed; redirect it to /dev/null if nobody reads it\n"


def _end(patch: pytest.MonkeyPatch, *arguments: object, **streams: Any) -> int:
    """Runs the command with these standard streams and returns its exit code. Other exceptions are raised."""
    with patch.context() as context:
        for name, stream in streams.items():
            context.setattr(sys, name, stream)
        with pytest.raises(SystemExit) as ended:
            app([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


def _process(*arguments: str, **settings: Any) -> subprocess.CompletedProcess[bytes]:
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | settings
    return subprocess.run([*SCRIPT, *arguments], timeout=120, check=False, **pipes)


@pytest.mark.parametrize(
    "arguments", [["methods"], ["bench", "--help"], ["table", "no – such"], ["generate", "é", "-p", "漢"]]
)
def test_an_ascii_terminal_gets_ascii(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    out, err = BytesIO(), BytesIO()
    streams = {"stdout": TextIOWrapper(out, encoding="ascii"), "stderr": TextIOWrapper(err, encoding="ascii")}
    assert _end(monkeypatch, *arguments, **streams) == (2 if arguments[0] in ("table", "generate") else 0)
    for stream in streams.values():
        stream.flush()
    assert out.getvalue() + err.getvalue()
    assert (out.getvalue() + err.getvalue()).isascii()


def test_an_ascii_terminal_gets_answers_to_any_prompt(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = BytesIO()
    stream = TextIOWrapper(out, encoding="ascii")
    assert _end(monkeypatch, "generate", tiny, "-p", "é – 漢 ×", "--max-new-tokens", 2, stdout=stream) == 0
    assert b"\n? - ? x\n" in out.getvalue()


def test_json_is_ascii_whatever_the_terminal(tiny: Path) -> None:
    shown = run("generate", tiny, "-p", "é 漢", "--max-new-tokens", 2, "--json").stdout
    assert shown.isascii()
    assert lines(shown)[0]["prompt"] == "é 漢"


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["methods"], ["methods", "--json"], ["bench", "--help"]]
)
def test_a_full_disk_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    with Path("/dev/full").open("w") as full:
        assert _end(monkeypatch, *arguments, stdout=full) == 1
    assert capsys.readouterr().err == FULL


def test_a_full_disk_while_samples_are_shown(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Path("/dev/full").open("w") as full:
        assert (
            _end(monkeypatch, "generate", tiny, "-p", "A", "--max-new-tokens", 2, "--json", stdout=full) == 1
        )
    assert capsys.readouterr().err == FULL


def test_python_says_nothing_of_a_full_disk_when_it_exits() -> None:
    with Path("/dev/full").open("wb") as full:
        done = _process("--version", stdout=full)
    assert (done.returncode, done.stderr.decode()) == (1, FULL)


def test_a_closed_standard_output_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _end(monkeypatch, "--version", stdout=None) == 1
    assert capsys.readouterr().err == CLOSED


def test_a_reader_that_has_gone_away_is_a_quiet_end() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = _process("--help", stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize("closed", [True, False])
def test_an_error_that_cannot_be_said_keeps_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, closed: bool
) -> None:
    with Path("/dev/full").open("w") as full:
        assert _end(monkeypatch, "table", "no-such-file", stderr=None if closed else full) == 2


def test_an_error_of_a_library_is_not_one_of_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, standard_streams():
        raise OSError("the hub was not reached")
    assert ended.value.code == 1
    assert capsys.readouterr().err == "regrow: error: the hub was not reached\n"
