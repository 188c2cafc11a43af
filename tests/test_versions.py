"""Versions outside of the supported range are refused with one sentence, by library and command."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as real
from pathlib import Path

import pytest

import regrow
from command import run
from regrow import versions
from regrow.errors import RegrowError
from regrow.models import load
from regrow.versions import SUPPORTED, require_supported


def _pretend(monkeypatch: pytest.MonkeyPatch, package: str, version: str | None) -> None:
    def pretended(name: str) -> str:
        if name != package:
            return real(name)
        if version is None:
            raise PackageNotFoundError(name)
        return version

    monkeypatch.setattr(versions, "version", pretended)


def test_the_range_is_that_of_the_package() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    for name, (first, beyond) in SUPPORTED.items():
        limit = "" if beyond is None else f",<{beyond[0]}.{beyond[1]}"
        assert f"{name}>={first[0]}.{first[1]}{limit}" in project["dependencies"]


OUTSIDE = [
    (
        "transformers",
        "4.57.1",
        "Regrow needs transformers 5.17 to 5.19, and 4.57.1 is installed; "
        "pip install 'transformers>=5.17,<5.20'",
    ),
    (
        "transformers",
        "5.16.9",
        "Regrow needs transformers 5.17 to 5.19, and 5.16.9 is installed; "
        "pip install 'transformers>=5.17,<5.20'",
    ),
    ("transformers", "5.20.0.dev0", "5.20.0.dev0 is installed"),
    ("transformers", "6.0", "6.0 is installed"),
    ("transformers", "nonsense", "nonsense is installed"),
    (
        "torch",
        "2.9.1+cu128",
        "Regrow needs torch 2.11 or newer, and 2.9.1+cu128 is installed; pip install 'torch>=2.11'",
    ),
    ("torch", "1.13.1", "1.13.1 is installed"),
]
INSIDE = [
    ("transformers", "5.17.0"),
    ("transformers", "5.19.7"),
    ("torch", "2.11.0a0+git"),
    ("torch", "2.13.0+cpu"),
    ("torch", "3.0"),
]


@pytest.mark.parametrize(("package", "version", "says"), OUTSIDE)
def test_versions_outside_the_range_are_refused(
    monkeypatch: pytest.MonkeyPatch, package: str, version: str, says: str
) -> None:
    _pretend(monkeypatch, package, version)
    with pytest.raises(RegrowError) as refusal:
        require_supported()
    assert says in str(refusal.value)


@pytest.mark.parametrize(("package", "version"), INSIDE)
def test_versions_within_the_range_are_not(
    monkeypatch: pytest.MonkeyPatch, package: str, version: str
) -> None:
    _pretend(monkeypatch, package, version)
    require_supported()


@pytest.mark.parametrize("package", SUPPORTED)
def test_a_package_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    _pretend(monkeypatch, package, None)
    require_supported()  # importable, from a folder
    monkeypatch.setattr(versions, "find_spec", lambda _: None)
    with pytest.raises(RegrowError, match=f"Regrow needs {package} .*, and it is not installed; pip install"):
        require_supported()


@pytest.mark.parametrize("name", [name for name in regrow.__all__ if not name.endswith("Error")])
def test_every_public_name_asks_for_the_range(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    _pretend(monkeypatch, "transformers", "4.57.1")
    monkeypatch.delitem(vars(regrow), name, raising=False)  # it was used before, by another test
    with pytest.raises(RegrowError, match="Regrow needs transformers"):
        getattr(regrow, name)
    assert regrow.RegrowError is RegrowError  # callers catch the error with it


def test_loading_asks_for_the_range(monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend(monkeypatch, "transformers", "4.57.1")
    with pytest.raises(RegrowError, match="Regrow needs transformers"):
        load()


@pytest.mark.parametrize("arguments", ["generate -p a", "demo", "methods", "bench"])
def test_commands_end_with_the_sentence(monkeypatch: pytest.MonkeyPatch, arguments: str) -> None:
    _pretend(monkeypatch, "transformers", "4.57.1")
    result = run(*arguments.split())
    assert result.exit_code == 1
    assert result.output.startswith(
        "regrow: error: Regrow needs transformers 5.17 to 5.19, and 4.57.1 is installed"
    )
    assert result.output.count("\n") == 1


@pytest.mark.parametrize("arguments", ["--help", "--version", "table --help"])
def test_help_and_version_need_neither_torch_nor_transformers(arguments: str) -> None:
    code = (
        "import sys; sys.modules |= {'torch': None, 'transformers': None}; "
        "from regrow.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments.split()], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


@pytest.mark.parametrize("command", ["generate", "demo", "calibrate", "evaluate", "compare", "bench"])
def test_help_is_there_in_any_version(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    _pretend(monkeypatch, "transformers", "4.57.1")
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"regrow {command}" in result.stdout
    assert "{" not in result.stdout.replace("{question}", "")  # that is part of a prompt template
    assert "left out: Regrow needs transformers 5.17 to 5.19, and 4.57.1 is installed" in result.stderr
