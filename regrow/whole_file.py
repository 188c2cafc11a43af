"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from regrow.errors import RegrowError, UsageError


def write_whole(path: Path, content: bytes) -> None:
    """Makes the folder too, if it is not there. What was at `path` stays until the new file is on the disk; a symbolic link stays one.

    Raises UsageError where a file cannot be, RegrowError where it cannot be written.
    """
    try:
        _refuse_special(path)
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
        raise RegrowError(
            f"{path} cannot be written: {error.strerror}; make room or choose another --out"
        ) from error


def refuse_place(path: Path, option: str = "--out") -> None:
    """Finds, before the work whose result it is to hold, that no file can be at `path`. Raises UsageError that names the option."""
    try:
        _refuse_special(path, option)
        folder = next(parent for parent in Path(os.path.realpath(path)).parents if parent.exists())
        if folder.is_dir() and os.access(folder, os.W_OK):
            return
        reason = f"no file can be made in {folder}"
    except OSError as error:  # a name too long, a folder that cannot be looked into
        reason = str(error.strerror)
    except UsageError:
        raise
    except ValueError as error:  # a name with a null byte
        reason = str(error)
    raise UsageError(f"{path} cannot be written: {reason}; choose another {option}")


def _refuse_special(path: Path, option: str = "--out") -> None:
    """A new file would take the place of a device or a pipe."""
    if path.exists() and not path.is_file():
        raise UsageError(
            f"{path} cannot be written: it is {'a folder' if path.is_dir() else 'no regular file'}; choose another {option}"
        )
