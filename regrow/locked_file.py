"""A file that one process writes at a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from regrow.errors import RegrowError


def lock(descriptor: int, path: Path, another: str) -> None:
    """Takes the open file at `path` for this process, until the descriptor is closed; `another` is what a user may choose instead.

    Raises RegrowError where another process has it, has just taken it away, or the disk has no locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.fstat(descriptor).st_nlink:  # its writer took it away in between
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
    """Returns when all of it is written, though not yet on the disk."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
