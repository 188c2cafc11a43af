"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from regrow.errors import RegrowError


def write_whole(path: Path, content: bytes) -> None:
    """Makes the folder too, if it is not there. What was at `path` stays until the new file is on the disk. Raises RegrowError where it
    cannot be written."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as file:
            try:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                unfinished.replace(path)
            except BaseException:
                unfinished.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise RegrowError(f"{path} cannot be written: {error.strerror}; make room or choose another --out") from error
