"""Writes files completely or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from regrow.errors import UsageError, unwritable

_ANOTHER_OUT: Final = "choose another --out"


def write_whole(path: Path, content: bytes, otherwise: str = _ANOTHER_OUT) -> None:
    """Writes `content` to `path`, completely or not at all. Creates missing folders.

    An existing file stays until the new one is on disk. A symbolic link stays, and its target is replaced.
    `otherwise` says what the user may do if the file cannot be written.

    Raises UsageError if `path` is a folder, device or pipe, RegrowError if the file cannot be written.
    """
    try:
        _refuse_special(path, otherwise)
        place = Path(os.path.realpath(path))
        unfinished = place.with_name(f".{place.name}.{os.getpid()}")
        place.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as file:
            try:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                unfinished.replace(place)
            except BaseException:
                unfinished.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise unwritable(path, error, otherwise) from error


def refuse_place(path: Path, option: str = "--out") -> None:
    """Raises UsageError, which names the option, if no file can be written at `path`.

    Call it before the work whose result the file is to hold.
    """
    otherwise = f"choose another {option}"
    try:
        _refuse_special(path, otherwise)
        folder = next(parent for parent in Path(os.path.realpath(path)).parents if parent.exists())
        if folder.is_dir() and os.access(folder, os.W_OK):
            return
        reason = f"no file can be made in {folder}"
    except OSError as error:  # for instance a name that is too long, or a folder without access
        reason = str(error.strerror)
    except UsageError:
        raise
    except ValueError as error:  # the name has a null byte
        reason = str(error)
    raise UsageError(f"{path} cannot be written: {reason}; {otherwise}")


def _refuse_special(path: Path, otherwise: str) -> None:
    """Raises UsageError if `path` is a folder, device or pipe, which a new file would replace."""
    if path.exists() and not path.is_file():
        raise UsageError(
            f"{path} cannot be written: it is {'a folder' if path.is_dir() else 'not a regular file'}; "
            f"{otherwise}"
        )
