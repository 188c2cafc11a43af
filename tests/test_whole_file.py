"""Files are written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from regrow.errors import RegrowError
from regrow.whole_file import write_whole


def test_it_makes_the_folder_and_replaces_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    for content in (b"first", b"second"):
        write_whole(path, content)
        assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


def test_what_was_there_stays_where_there_is_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_whole(path, b"before")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RegrowError, match="file cannot be written: No space left on device; make room"):
        write_whole(path, b"after")
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_run_left_is_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.with_name(f".file.{os.getpid()}").write_bytes(b"half")
    write_whole(path, b"whole")
    assert (path.read_bytes(), list(tmp_path.iterdir())) == (b"whole", [path])
