"""Record files on disk: appended a whole batch at a time, safe against kills, full disks and a second writer."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Self, final

from regrow.errors import RegrowError, UsageError
from regrow.locked_file import lock, write_all
from regrow.records import Record
from regrow.run_config import FORMAT, FORMATS, RunConfig

_STARTS = tuple(b'{"format":%d,' % written for written in FORMATS)
_RECORD = re.compile(
    rb'^\W*\{[ \t]*"(format"[ \t]*:[ \t]*\d|batch"[ \t]*:)', re.MULTILINE
)  # also with its fields sorted


def read(path: Path) -> tuple[Record, ...]:
    """The complete batches of a file, in order of batch. Another process may still be writing it.

    Raises UsageError for a file that cannot be read, RegrowError for one that is damaged or holds no complete batch.
    """
    try:
        if path.exists() and not (path.is_file() or _is_open_pipe(path)):
            raise UsageError(f"{path} is not a regular file; give a record file")
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    records, _ = _parse(path, data)
    if not records:
        raise RegrowError(f"{path} holds no complete batch: run the evaluation first")
    return tuple(records[batch] for batch in sorted(records))


def _is_open_pipe(path: Path) -> bool:
    """Whether it is a pipe that a shell opened, such as `<(zcat file.gz)`, which lies nowhere. One that lies in a folder may have nobody
    who writes to it, and reading it would take for ever."""
    return path.is_fifo() and not Path(os.path.realpath(path)).exists()


def refuse_other(path: Path, config: RunConfig) -> None:
    """Raises RegrowError for a file that is there and in which no run of this configuration can go on; nothing is written."""
    if path.exists():
        with _disk(path):
            data = path.read_bytes()
        _refuse_other(path, _parse(path, data)[0], config)


@final
class RecordFile:
    """A record file open for appending, by this process alone, until `close` or the end of its `with` block."""

    def __init__(self, path: Path, config: RunConfig) -> None:
        """Creates the file, or takes up an existing one and cuts off its torn last line.

        Raises RegrowError for a file that cannot be written, that another process writes, that is damaged or of another configuration.
        """
        self._path, self._config, self._size = path, config, 0
        self._made = not path.exists()
        self._descriptor = _open(path)
        try:
            with _disk(path):
                records, self._size = _parse(path, path.read_bytes())
            _refuse_other(path, records, config)
            with _disk(path):
                os.ftruncate(self._descriptor, self._size)
        except BaseException:
            self.close()
            raise
        self._done = set(records)

    @property
    def done(self) -> frozenset[int]:
        """The batches that are on the disk."""
        return frozenset(self._done)

    def append(self, record: Record) -> None:
        """Returns once the record is on the disk. Raises RegrowError if it could not be written whole; then nothing of it counts."""
        if record.config.key != self._config.key or record.batch in self._done:
            raise ValueError(f"batch {record.batch} is of another configuration or recorded already")
        line = record.line()
        with _disk(self._path):
            try:
                write_all(self._descriptor, line)
                os.fsync(self._descriptor)
            except OSError:
                with suppress(OSError):  # what then stays is a torn line, which the next run cuts off
                    os.ftruncate(self._descriptor, self._size)
                raise
        self._size += len(line)
        self._done.add(record.batch)

    def close(self) -> None:
        if self._made and not self._size:
            self._path.unlink(missing_ok=True)  # made by a run that recorded nothing
        os.close(self._descriptor)  # the lock goes with it

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        advice = "complete batches are kept: make room or choose another file, and run again"
        raise RegrowError(f"{path} cannot be written: {error.strerror}; {advice}") from error


def _open(path: Path) -> int:
    """A descriptor for appending that holds the file's lock."""
    with _disk(path):
        if path.exists() and not path.is_file():
            raise RegrowError(f"{path} is not a regular file; choose another one for the records")
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        lock(descriptor, path, "file")
    except RegrowError:
        os.close(descriptor)
        raise
    return descriptor


def _parse(path: Path, data: bytes) -> tuple[dict[int, Record], int]:
    """The complete records of `data` by batch, all of one configuration, and the bytes they take; only a torn last line may follow."""
    _refuse_foreign(path, data)
    records: dict[int, Record] = {}
    size = 0
    for number, line in enumerate(BytesIO(data), 1):
        if size + len(line) == len(data) and _is_torn(line):
            break
        try:
            record = Record.parse(line)
            _refuse_stray(record, records)
        except ValueError as error:
            raise RegrowError(
                f"{path}, line {number} is damaged: {error}; restore the file or choose another one"
            ) from error
        records[record.batch] = record
        size += len(line)
    return records, size


def _is_torn(line: bytes) -> bool:
    """Whether a last line is a record cut short, or the zeros a power cut leaves. Never another text: that must not be cut off."""
    if not _has_begun(line.rstrip(b"\0\n")):
        return False
    return not line.endswith(b"\n") or not _is_json(line)


def _has_begun(line: bytes) -> bool:
    """Whether it may be a record, or the beginning of one."""
    return any(line.startswith(start) or start.startswith(line) for start in _STARTS)


def _refuse_foreign(path: Path, data: bytes) -> None:
    """A damaged record file has at least a line that begins like a record; one without never was one."""
    if not (_RECORD.search(data) or _has_begun(data.strip(b"\0\r\n"))):
        raise RegrowError(f"{path} is no record file; choose another one")


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _refuse_stray(record: Record, earlier: Mapping[int, Record]) -> None:
    if record.batch in earlier:
        raise ValueError(f"batch {record.batch} is there twice")
    for other in list(earlier.values())[:1]:
        if record.config.key != other.config.key:
            raise ValueError("its settings are not those of the lines before")
        _ = record.counted + other.counted  # refuses other layers


def _refuse_other(path: Path, records: Mapping[int, Record], config: RunConfig) -> None:
    for record in list(records.values())[:1]:
        differing = record.config.differences(config)
        if differing:
            raise RegrowError(
                f"{path} was made with other settings ({differing}, there/asked): ask for the same or choose another file"
            )
        if record.config.format != FORMAT:
            raise RegrowError(
                f"{path} is of format {record.config.format}, which does not say what tokenizer, chat template, generation config and "
                "attention it was made with: `regrow table` reads it, but no run can go on in it; choose another file"
            )
