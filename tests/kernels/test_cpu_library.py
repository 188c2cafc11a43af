"""CPU kernels are compiled once, and are not used where they cannot be compiled."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from kernels.compiled_here import COMPILED
from regrow.kernels import cpu_library
from regrow.kernels.cpu_library import Kernel


@pytest.fixture
def compiles_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Puts a g++ first in PATH that makes an empty library at once. The kernels would take many seconds."""
    (tmp_path / "bin").mkdir()
    compiler = tmp_path / "bin" / "g++"
    compiler.write_text(
        f"""#!/bin/sh
[ "$1" = --version ] && {{ echo 1; exit; }}
while [ "$1" != -o ]; do shift; done
exec {shutil.which("g++")} -shared -x c++ /dev/null -o "$2"
"""
    )
    compiler.chmod(0o755)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(compiler.parent), prepend=os.pathsep)


@pytest.fixture
def anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """An empty cache of compiled kernels."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cpu_library.library.cache_clear()
    yield tmp_path / "regrow" / "kernels"
    cpu_library.library.cache_clear()


@COMPILED
@pytest.mark.usefixtures("compiles_nothing")
def test_is_compiled_once(anew: Path) -> None:
    assert cpu_library.library() is not None
    (kept,) = anew.iterdir()
    made = kept.stat().st_mtime_ns
    cpu_library.library.cache_clear()
    assert cpu_library.library() is not None
    assert [kept.stat().st_mtime_ns] == [file.stat().st_mtime_ns for file in anew.iterdir()] == [made]


@COMPILED
@pytest.mark.usefixtures("compiles_nothing")
def test_other_sources_are_another_library(
    anew: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shutil.copytree(cpu_library._HERE, tmp_path / "kernels", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(cpu_library, "_HERE", tmp_path / "kernels")
    assert cpu_library.library() is not None
    with (tmp_path / "kernels" / "cpu.h").open("a") as header:
        header.write("// another\n")
    cpu_library.library.cache_clear()
    assert cpu_library.library() is not None
    assert len(list(anew.iterdir())) == 2


def test_a_compiler_that_fails_is_told_of_once_and_leaves_nothing(
    anew: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "g++"
    broken.write_text(
        '#!/bin/sh\ncase "$1" in --version) echo 1;; *) echo "no such option" >&2; exit 1;; esac\n'
    )
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", str(broken))
    with pytest.warns(UserWarning, match="could not be compiled.*no such option"):
        assert cpu_library.library() is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cpu_library.library() is None
    assert list(anew.iterdir()) == []
    assert Kernel("gated").get(torch.float32) is None


@COMPILED
@pytest.mark.usefixtures("compiles_nothing")
def test_the_next_compiler_is_tried_after_one_that_fails(anew: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "false")
    assert cpu_library.library() is not None


@COMPILED
def test_what_is_loaded_never_lies_in_the_working_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cpu_library._home() == tmp_path / "home" / ".cache" / "regrow" / "kernels"


def test_without_a_compiler_there_are_none(anew: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cpu_library.library() is None
