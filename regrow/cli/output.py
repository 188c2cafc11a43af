"""The file of finished samples: a JSON line each, on the disk as soon as the sample is finished."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, final

from regrow.errors import RegrowError, UsageError


def line(value: Mapping[str, Any]) -> str:
    """One line of JSON, without its newline."""
    return json.dumps(value, allow_nan=False)


@final
class SampleFile:
    """Opened at once, so that a file that cannot be written is found before anything is decoded; an earlier one is emptied by `begin`."""

    def __init__(self, path: Path) -> None:
        """Raises UsageError for a file that cannot be written."""
        self.path = path
        try:
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}; choose another --output") from error

    def begin(self) -> None:
        if self.path.is_file():  # pipes and devices have nothing to empty
            self._file.truncate(0)

    def write(self, value: Mapping[str, Any]) -> None:
        """Raises RegrowError where the disk takes no more."""
        rest = memoryview(f"{line(value)}\n".encode())
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise RegrowError(f"{self.path} cannot be written: {error.strerror}; the samples finished before are kept") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()
