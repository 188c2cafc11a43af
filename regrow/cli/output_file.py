"""A file that one process writes: opened for appending, locked, written to the disk."""

from __future__ import annotations

import os
import stat
import sys
from errno import EINVAL, ENOTSUP
from pathlib import Path

from regrow.errors import UsageError
from regrow.locked_file import lock, write_all


def open_alone(path: Path) -> int:
    """A descriptor for appending; it holds the lock of a regular file."""
    try:
        special = path.exists() and not path.is_file()
        descriptor = os.open(path, (os.O_WRONLY if special else os.O_RDWR | os.O_CREAT) | os.O_APPEND, 0o666)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"{path} cannot be written: {reason}; choose another --output") from error
    try:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            _refuse_stdout(path, descriptor)
            lock(descriptor, path, "--output")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _refuse_stdout(path: Path, descriptor: int) -> None:
    try:
        same = os.path.sameopenfile(descriptor, sys.stdout.fileno())
    except (OSError, ValueError):  # standard output is no file
        return
    if same:
        raise UsageError(f"{path} is where standard output goes too; use --json, or choose another --output")


def write_through(descriptor: int, data: bytes) -> None:
    """Returns when all of it is on the disk, where there is one."""
    write_all(descriptor, data)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (EINVAL, ENOTSUP):  # pipes and devices have nothing to bring to a disk
            raise
