"""Record files on disk. One batch is appended at a time.

Complete batches survive a killed process and a full disk, and a second writer is refused.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Final, Self, final

from regrow.errors import RegrowError, UsageError, unwritable
from regrow.locked_file import lock, write_all
from regrow.records import Record
from regrow.run_config import FORMAT, FORMATS, RunConfig

_ANOTHER_FILE: Final = "choose another file"
_STARTS = tuple(b'{"format":%d,' % written for written in FORMATS)
# The beginning of a record, also if another tool has sorted its fields.
_RECORD = re.compile(rb'^\W*\{[ \t]*"(format"[ \t]*:[ \t]*\d|batch"[ \t]*:)', re.MULTILINE)


def read(*paths: Path) -> tuple[Record, ...]:
    """Returns the complete batches of the files of one run, in order of batch.

    Other processes may still be writing them. Raises UsageError if a file cannot be read, RegrowError if a
    file is damaged, if the files belong to different runs or hold a batch twice, or if none holds a batch.
    """
    records: dict[int, Record] = {}
    for path in paths:
        for record in _read(path).values():
            try:
                _refuse_stray(record, records)
            except ValueError as error:
                raise RegrowError(
                    f"{path} and {paths[0]} cannot be taken together: {error}; choose files of one run"
                ) from error
            records[record.batch] = record
    if not records:
        raise RegrowError(f"{paths[0]} holds no complete batch: run the evaluation first")
    return tuple(records[batch] for batch in sorted(records))


def recorded(path: Path) -> int:
    """Returns the number of complete batches in a file, 0 if it does not exist or is damaged."""
    try:
        return len(_read(path))
    except RegrowError:
        return 0


def _read(path: Path) -> dict[int, Record]:
    try:
        if path.exists() and not (path.is_file() or _is_open_pipe(path)):
            raise UsageError(f"{path} is not a regular file; give a record file")
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    return _parse(path, data)[0]


def _is_open_pipe(path: Path) -> bool:
    """Returns True for a pipe that a shell opened, such as `<(zcat file.gz)`.

    Such a pipe lies in no folder. A named pipe that lies in a folder may have no writer, and reading it would
    then block forever.
    """
    return path.is_fifo() and not Path(os.path.realpath(path)).exists()


def refuse_other(path: Path, config: RunConfig) -> None:
    """Raises RegrowError if the file exists but a run of this configuration cannot continue it.

    Raises UsageError if it cannot be read.
    """
    if path.exists():
        _refuse_other(path, _read(path), config)


@final
class RecordFile:
    """A record file that only this process may append to, until `close` or the end of the `with` block."""

    def __init__(self, path: Path, config: RunConfig) -> None:
        """Creates the file, or opens an existing one and cuts off an incomplete last line.

        Raises RegrowError if the file cannot be written, is being written by another process, is damaged, or
        belongs to another configuration.
        """
        self._path, self._config, self._size = path, config, 0
        self._made = not path.exists()
        self._made_folders = [folder for folder in path.parents if not folder.exists()]
        try:
            self._descriptor = _open(path)
        except BaseException:
            self._remove_folders()
            raise
        try:
            records, self._size = _parse(path, path.read_bytes())
            _refuse_other(path, records, config)
            os.ftruncate(self._descriptor, self._size)
        except OSError as error:
            self.close()
            raise unwritable(path, error, _ANOTHER_FILE) from error
        except BaseException:
            self.close()
            raise
        self._done = set(records)

    @property
    def done(self) -> frozenset[int]:
        """The batches that are on disk."""
        return frozenset(self._done)

    def append(self, record: Record) -> None:
        """Appends a record, and returns when it is on disk.

        Raises RegrowError if the record cannot be written completely; the file then counts as unchanged.
        """
        if record.config.key != self._config.key or record.batch in self._done:
            raise ValueError(f"batch {record.batch} is of another configuration or recorded already")
        line = record.line()
        try:
            write_all(self._descriptor, line)
            os.fsync(self._descriptor)
        except OSError as error:
            with suppress(OSError):  # the incomplete line then stays, and the next run cuts it off
                os.ftruncate(self._descriptor, self._size)
            kept = "complete batches are kept" if self._done else ""
            raise unwritable(self._path, error, f"{_ANOTHER_FILE}, and run again", kept) from error
        self._size += len(line)
        self._done.add(record.batch)

    def close(self) -> None:
        """Closes the file and releases its lock.

        If it is empty and this run created it, it is removed, and with it the folders that were made for it.
        """
        if self._made and not self._size:
            self._path.unlink(missing_ok=True)
            self._remove_folders()
        os.close(self._descriptor)  # this releases the lock

    def _remove_folders(self) -> None:
        with suppress(OSError):  # one that another process has filled stays, and so do those above it
            for folder in self._made_folders:
                folder.rmdir()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _open(path: Path) -> int:
    """Opens the file for appending, locks it, and returns its descriptor."""
    try:
        if path.exists() and not path.is_file():
            raise RegrowError(f"{path} is not a regular file; choose another one for the records")
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    except OSError as error:
        raise unwritable(path, error, _ANOTHER_FILE) from error
    try:
        lock(descriptor, path, "file")
    except RegrowError:
        os.close(descriptor)
        raise
    return descriptor


def _parse(path: Path, data: bytes) -> tuple[dict[int, Record], int]:
    """Returns the complete records in `data` by batch, and the number of bytes they take.

    All records must have one configuration, and only an incomplete last line may follow them.
    """
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
    """Returns True if a last line is an incomplete record, or consists of zeros that a power cut left.

    Any other text is not torn: a torn line is cut off, and other text must not be lost.
    """
    if not _has_begun(line.rstrip(b"\0\n")):
        return False
    return not line.endswith(b"\n") or not _is_json(line)


def _has_begun(line: bytes) -> bool:
    """Returns True if the line may be a record, or the beginning of one."""
    return any(line.startswith(start) or start.startswith(line) for start in _STARTS)


def _refuse_foreign(path: Path, data: bytes) -> None:
    """Raises RegrowError if no line begins like a record: then the file is not even a damaged record file."""
    if not (_RECORD.search(data) or _has_begun(data.strip(b"\0\r\n"))):
        raise RegrowError(f"{path} is not a record file; choose another one")


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
            differing = other.config.differences(record.config) or "other formats"
            raise ValueError(f"settings differ from those of earlier records ({differing})")
        _ = record.counted + other.counted  # raises ValueError if the layers differ


def _refuse_other(path: Path, records: Mapping[int, Record], config: RunConfig) -> None:
    for record in list(records.values())[:1]:
        differing = record.config.differences(config)
        if differing:
            raise RegrowError(
                f"{path} was made with other settings ({differing}): ask for the same or choose another file"
            )
        if record.config.format != FORMAT:
            raise RegrowError(
                f"{path} is of format {record.config.format}, which does not hold all the settings of a run: "
                "`regrow table` reads it, but no run can continue it; choose another file"
            )
