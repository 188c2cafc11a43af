"""A file that one process writes: opened for appending, locked, written to the disk."""

from __future__ import annotations

import fcntl
import os
import stat
import sys
from errno import EINVAL, ENOTSUP
from pathlib import Path

from regrow.errors import RegrowError, UsageError


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
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.fstat(descriptor).st_nlink:  # its writer took it away in between
                raise BlockingIOError
    except BlockingIOError as error:
        os.close(descriptor)
        raise RegrowError(f"{path} is being written by another process; wait for it or choose another --output") from error
    except OSError as error:
        os.close(descriptor)
        raise UsageError(f"{path} cannot be locked ({error.strerror}); choose an --output on a disk that has locks") from error
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


def write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (EINVAL, ENOTSUP):  # pipes and devices have nothing to bring to a disk
            raise
