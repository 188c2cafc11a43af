from __future__ import annotations

import errno
import fcntl
import gzip
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from regrow.errors import RegrowError, UsageError
from regrow.record_file import RecordFile, read
from regrow.records import Record
from regrow.run_config import RunConfig
from samples import CONFIG, COUNTED, FORMAT_3, record

ONE, TWO = record(0), record(1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new folder" / "run.jsonl"


def _fill(path: Path, content: bytes) -> bytes:
    path.parent.mkdir()
    path.write_bytes(content)
    return content


def test_what_is_appended_is_read_back_in_order_of_batch(path: Path) -> None:
    with RecordFile(path, CONFIG) as file:
        assert file.done == set()
        file.append(TWO)
        assert read(path) == (TWO,)  # on disk at once, and readable while the file is open
        file.append(ONE)
        assert file.done == {0, 1}
    assert path.read_bytes() == TWO.line() + ONE.line()
    assert read(path) == (ONE, TWO)


def test_every_append_is_synced(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bytes] = []
    with RecordFile(path, CONFIG) as file:
        monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(path.read_bytes()))
        file.append(ONE)
    assert synced == [ONE.line()]


def test_a_restart_keeps_complete_batches_and_goes_on_behind_them(path: Path) -> None:
    with RecordFile(path, CONFIG) as file:
        file.append(ONE)
    with RecordFile(path, CONFIG) as file:
        assert file.done == {0}
        file.append(TWO)
    assert read(path) == (ONE, TWO)


@pytest.mark.parametrize("written", range(0, len(TWO.line()), 97))
def test_a_line_torn_anywhere_is_cut_off(path: Path, written: int) -> None:
    _fill(path, ONE.line() + TWO.line()[:written])
    assert read(path) == (ONE,)
    with RecordFile(path, CONFIG) as file:
        assert file.done == {0}
        assert path.read_bytes() == ONE.line()
        file.append(TWO)
    assert read(path) == (ONE, TWO)


@pytest.mark.parametrize(
    "tail", [b"\0" * 300, TWO.line()[:99] + b"\0" * 40, TWO.line()[:99] + b"\n", TWO.line()[:-1], b"\n"]
)
def test_other_ways_to_be_torn(path: Path, tail: bytes) -> None:
    _fill(path, ONE.line() + tail)
    with RecordFile(path, CONFIG) as file:
        assert file.done == {0}
    assert path.read_bytes() == ONE.line()


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (TWO.line()[:50] + b"\n" + ONE.line(), 1),
        (ONE.line() + b"\n" + TWO.line(), 2),
        (ONE.line() + ONE.line(), 2),  # the same batch again
        (ONE.line() + record(1, replace(CONFIG, chat=True)).line(), 2),
        (ONE.line() + TWO.line().replace(b'"batch_size":2', b'"batch_size":9'), 2),
        (ONE.line() + b"and then I went home", 2),
    ],
)
def test_other_damage_is_refused_and_left_alone(path: Path, content: bytes, line: int) -> None:
    _fill(path, content)
    for attempt in (lambda: RecordFile(path, CONFIG), lambda: read(path)):
        with pytest.raises(RegrowError, match=rf"{path}, line {line} is damaged: .*restore"):
            attempt()
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "content",
    [
        b"# Notes\n",
        b"# Notes",
        b'{"type":"sample","text":"A"}\n',
        b"[1, 2]\n",
        gzip.compress(ONE.line()),
        b"\x89PNG\r\n\x1a\n\0\0",
        b"null",
    ],
    ids=["text", "a line cut short", "samples", "a list", "gzip", "a picture", "null"],
)
def test_a_file_that_was_never_a_record_is_called_that(path: Path, content: bytes) -> None:
    _fill(path, content)
    for attempt in (lambda: RecordFile(path, CONFIG), lambda: read(path)):
        with pytest.raises(RegrowError, match=rf"^{path} is not a record file; choose another one$"):
            attempt()
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + ONE.line() + TWO.line(),
        (ONE.line() + TWO.line()).replace(b"\n", b"\r\n"),
        ONE.line() + TWO.line() + b"\0" * 99,
        b"".join(
            json.dumps(json.loads(made.line()), sort_keys=True, separators=(",", ":")).encode() + b"\n"
            for made in (ONE, TWO)
        ),
    ],
    ids=["byte order mark", "CRLF", "zeros at the end", "fields in another order"],
)
def test_what_editors_and_power_cuts_do_to_a_file_does_no_harm(path: Path, content: bytes) -> None:
    _fill(path, content)
    assert read(path) == (ONE, TWO)


def test_counters_of_other_layers_do_not_belong_together(path: Path) -> None:
    one, two = (
        {**COUNTED, "sites": {"down": {"kept": [1] * layers, "dense": [2] * layers}}} for layers in (2, 3)
    )
    _fill(path, record(0, counters=one).line() + record(1, counters=two).line())
    with pytest.raises(RegrowError, match="line 2 is damaged: the counters are of other layers"):
        read(path)


@pytest.mark.parametrize("kind", ["a folder", "a pipe"])
def test_what_is_no_regular_file_is_not_read(path: Path, kind: str) -> None:
    path.parent.mkdir()
    path.mkdir() if kind == "a folder" else os.mkfifo(path)
    with pytest.raises(UsageError, match=rf"^{path} is not a regular file; give a record file$"):
        read(path)


UNKNOWN_TO_2 = (
    "tokenizer_sha256",
    "chat_template_sha256",
    "prompts_sha256",
    "padding",
    "attention",
    "generation_config",
)
FORMAT_2 = replace(FORMAT_3, **dict.fromkeys(UNKNOWN_TO_2))


@pytest.mark.parametrize("config", [FORMAT_2, FORMAT_3], ids=["2", "3"])
def test_records_of_earlier_formats_are_read_but_no_run_goes_on_in_them(
    path: Path, config: RunConfig
) -> None:
    old = record(0, config)
    content = _fill(path, old.line())
    assert read(path) == (old,)
    with pytest.raises(
        RegrowError,
        match=rf"is of format {config.format}, which does not hold all the settings .*; choose another file$",
    ):
        RecordFile(path, CONFIG)
    with pytest.raises(RegrowError, match=r"other settings \(batch_size is 2 there and 3 here\)"):
        RecordFile(path, replace(CONFIG, batch_size=3))
    assert path.read_bytes() == content


def test_a_file_of_other_settings_is_refused_by_their_names(path: Path) -> None:
    content = _fill(path, ONE.line())
    asked = replace(CONFIG, batch_size=8, params={"sparsity": 0.9})
    with pytest.raises(RegrowError) as raised:
        RecordFile(path, asked)
    assert "(sparsity is 0.5 there and 0.9 here, batch_size is 2 there and 8 here)" in str(raised.value)
    assert "dtype" not in str(raised.value)
    assert path.read_bytes() == content


def test_a_record_that_does_not_belong_is_a_mistake_of_the_caller(path: Path) -> None:
    with RecordFile(path, CONFIG) as file:
        file.append(ONE)
        for stray in (ONE, record(1, replace(CONFIG, chat=True))):
            with pytest.raises(ValueError, match="another configuration or recorded already"):
                file.append(stray)
    assert read(path) == (ONE,)


@pytest.mark.parametrize("taken", [0, 40, len(TWO.line()) - 1])
def test_a_full_disk_leaves_nothing_half_written(
    path: Path, taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, rest = os.write, taken

    def full(descriptor: int, data: bytes) -> int:
        nonlocal rest
        if not rest:
            raise OSError(errno.ENOSPC, "No space left on device")
        done = write(descriptor, data[:rest])
        rest -= done
        return done

    with RecordFile(path, CONFIG) as file:
        file.append(ONE)
        with monkeypatch.context() as patched:
            patched.setattr(os, "write", full)
            with pytest.raises(
                RegrowError,
                match=rf"{path} cannot be written: No space left on device; "
                "complete batches are kept: make room or choose another file, and run again$",
            ):
                file.append(TWO)
        assert path.read_bytes() == ONE.line()
        assert file.done == {0}
        file.append(TWO)  # there is room again
    assert read(path) == (ONE, TWO)


def test_a_write_in_several_pieces_is_completed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:100]))
    with RecordFile(path, CONFIG) as file:
        file.append(ONE)
    assert read(path) == (ONE,)


def test_a_failed_sync_takes_the_record_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with RecordFile(path, CONFIG) as file:
        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(RegrowError, match=r"Input/output error; choose another file, and run again$"):
            file.append(ONE)
        assert file.done == set()
        assert path.read_bytes() == b""
    assert not path.exists()  # a run that recorded nothing leaves no file


# Locks a file as a writer does, but does not take seconds to import the package.
HOLD = """
import fcntl, sys
file = open(sys.argv[1], "a")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.readline()
"""


def test_a_second_writer_is_refused(path: Path) -> None:
    with (
        RecordFile(path, CONFIG),
        pytest.raises(RegrowError, match=rf"{path} is being written by another process"),
    ):
        RecordFile(path, CONFIG)
    RecordFile(path, CONFIG).close()


def test_a_killed_writer_holds_nothing(path: Path) -> None:
    _fill(path, ONE.line() + TWO.line()[:99])
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "held\n"
        with pytest.raises(RegrowError, match="being written by another process"):
            RecordFile(path, CONFIG)
        # The line that is being written is not cut off as a torn line.
        assert path.read_bytes() == ONE.line() + TWO.line()[:99]
        writer.kill()
    with RecordFile(path, CONFIG) as file:
        assert file.done == {0}


def test_the_lock_goes_with_a_refused_file(path: Path) -> None:
    _fill(path, ONE.line())
    with pytest.raises(RegrowError, match="other settings"):
        RecordFile(path, replace(CONFIG, chat=True))
    RecordFile(path, CONFIG).close()


def test_a_disk_without_locks_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(RegrowError, match="cannot be locked"):
        RecordFile(path, CONFIG)


def test_places_that_cannot_hold_records(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path, Path("/dev/full")):
        with pytest.raises(RegrowError, match="not a regular file"):
            RecordFile(place, CONFIG)
    with pytest.raises(RegrowError, match=r"/file is a file and not a directory; choose another file$"):
        RecordFile(tmp_path / "file" / "run.jsonl", CONFIG)


def test_a_place_that_may_not_be_written_is_called_that(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No folder is closed to root, so the error is raised by hand."""

    def fail(*_: object) -> int:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(RegrowError, match=r"cannot be written: Read-only file system; choose another file$"):
        RecordFile(path, CONFIG)
    assert not path.parent.exists()


def test_a_run_that_recorded_nothing_leaves_no_folder(path: Path) -> None:
    below = path.parent / "below" / "run.jsonl"
    RecordFile(below, CONFIG).close()
    assert not path.parent.exists()
    with RecordFile(below, CONFIG):
        path.touch()  # of another process
    assert list(path.parent.iterdir()) == [path]


def test_files_with_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        read(tmp_path / "none.jsonl")
    torn = tmp_path / "torn.jsonl"
    torn.write_bytes(ONE.line()[:80])
    with pytest.raises(RegrowError, match="no complete batch"):
        read(torn)
    assert torn.read_bytes() == ONE.line()[:80]  # reading never changes a file


def test_a_record_survives_json_tools_that_write_it_differently(path: Path) -> None:
    _fill(path, json.dumps(json.loads(ONE.line()), indent=None).encode() + b"\n")
    assert read(path) == (ONE,)
    assert Record.parse(path.read_bytes()).line() == ONE.line()
