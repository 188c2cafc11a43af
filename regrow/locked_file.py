"""Files that only one process writes at a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from regrow.errors import RegrowError


def lock(descriptor: int, path: Path, another: str) -> None:
    """Locks the open file at `path` for this process, until the descriptor is closed.

    `another` says what the user may choose instead, for the error message ("choose another ...").

    Raises RegrowError if another process holds the lock or has just removed the file, or if the disk does
    not support locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.fstat(descriptor).st_nlink:  # its writer has removed it in the meantime
            raise BlockingIOError
    except BlockingIOError as error:
        raise RegrowError(
            f"{path} is being written by another process; wait for it or choose another {another}"
        ) from error
    except OSError as error:
        raise RegrowError(
            f"{path} cannot be locked ({error.strerror}); choose another {another}, on a disk that has locks"
        ) from error


def write_all(descriptor: int, data: bytes) -> None:
    """Writes all of `data`. It may not be on disk yet when this returns."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
