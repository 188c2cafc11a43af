"""The file of `--output`: only one process at a time may append to it."""

from __future__ import annotations

import os
import stat
import sys
from errno import EINVAL, ENOTSUP
from pathlib import Path

from regrow.errors import UsageError
from regrow.locked_file import lock, write_all


def open_alone(path: Path) -> int:
    """Opens the file for appending and returns the descriptor. A regular file is also locked.

    Raises UsageError if the file cannot be opened or is standard output, RegrowError if another process
    holds the lock.
    """
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
    """Raises UsageError if standard output goes to the same file."""
    try:
        same = os.path.sameopenfile(descriptor, sys.stdout.fileno())
    except (OSError, ValueError):  # standard output has no descriptor
        return
    if same:
        raise UsageError(f"{path} is where standard output goes too; use --json, or choose another --output")


def write_through(descriptor: int, data: bytes) -> None:
    """Writes all data, and returns when a regular file has it on disk."""
    write_all(descriptor, data)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (EINVAL, ENOTSUP):  # pipes and devices cannot be synchronised
            raise
