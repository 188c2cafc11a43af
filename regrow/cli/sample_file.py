"""The file of `generate --output`: a line of settings, then the samples in the order of their prompts, a whole batch at a time.

The samples of a batch share their masks, so that only whole batches are kept: a run that goes on from such a file gives the samples of an
undisturbed one.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self, final

from regrow.cli.output import line
from regrow.cli.output_file import open_alone, write_through
from regrow.errors import RegrowError, UsageError

_START = b'{"type": "settings", '
_TOLD = ("model", "versions")  # for the reader: what they stand for is compared by digests, or may differ
_ADVICE = "the batches finished before are kept"


@final
class SampleFile:
    """Opened at once, so that a file that cannot be written is found before anything is decoded. Nothing in
    it changes until `begin`."""

    def __init__(self, path: Path) -> None:
        """Raises UsageError for a file that cannot be written, or that holds something else than samples."""
        self.path = path
        self._made = not path.exists()
        self._descriptor = open_alone(path)
        self._regular = stat.S_ISREG(os.fstat(self._descriptor).st_mode)
        self._size, self._written = 0, False
        try:
            self.settings, self._samples = self._read() if self._regular else (None, [])
        except BaseException:
            self._close()
            raise

    def begin(
        self, settings: Mapping[str, Any], batch_size: int, prompts: Sequence[str]
    ) -> list[dict[str, Any]]:
        """The samples that are there, those of whole batches. Raises UsageError for a file made with other
        settings."""
        asked = {"type": "settings", **json.loads(line(settings))}
        if not self._samples:  # nothing is lost, whatever it was made with
            self._cut()
            self._append([asked])
            return []
        self._refuse_other(asked)
        if len(self._samples) > len(prompts):
            raise RegrowError(
                f"{self.path} holds more samples than there are prompts; restore the file or choose another --output"
            )
        whole = (
            len(prompts)
            if len(self._samples) == len(prompts)
            else len(self._samples) // batch_size * batch_size
        )
        other = next(
            (
                place
                for place, sample in enumerate(self._samples[:whole])
                if sample.get("prompt") != prompts[place]
            ),
            None,
        )
        if other is not None:
            raise self._damaged(other)
        self._size = self._ends[whole]
        self._cut()
        return self._samples[:whole]

    def write(self, samples: Sequence[Mapping[str, Any]]) -> None:
        """Returns once the samples are on the disk. Raises RegrowError where it takes no more; then none of
        them is there."""
        self._append(samples)
        self._written = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._made and self._regular and not self._written:
            self.path.unlink(missing_ok=True)  # made by a request that failed
        os.close(self._descriptor)  # the lock goes with it

    def _append(self, values: Sequence[Mapping[str, Any]]) -> None:
        data = "".join(f"{line(value)}\n" for value in values).encode()
        try:
            write_through(self._descriptor, data)
        except OSError as error:
            with suppress(OSError):  # what then stays is a torn line, which the next run cuts off
                self._cut()
            kept = (
                _ADVICE
                if self._regular and (self._written or self._samples)
                else "make room or choose another --output"
            )
            raise RegrowError(f"{self.path} cannot be written: {error.strerror}; {kept}") from error
        self._size += len(data)

    def _cut(self) -> None:
        if self._regular:
            os.ftruncate(self._descriptor, self._size)

    def _read(self) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
        """The settings and the samples; a torn last line is left out. `_ends` are the bytes up to the end of
        each."""
        data = self.path.read_bytes()
        lines = _whole_lines(data)
        if not lines and (data.startswith(_START) or _START.startswith(data.rstrip(b"\0"))):
            return None, []
        settings = _object(lines[0]) if lines and lines[0].startswith(_START) else None
        if settings is None:
            raise UsageError(
                f"{self.path} holds something else than samples of `regrow generate`; choose another --output"
            )
        self._ends = [len(lines[0])]
        samples = []
        for number, part in enumerate(lines[1:]):
            sample = _object(part)
            if sample is None or sample.get("type") != "sample" or sample.get("index") != number:
                raise self._damaged(number)
            samples.append(sample)
            self._ends.append(self._ends[-1] + len(part))
        return settings, samples

    def _damaged(self, sample: int) -> RegrowError:
        return RegrowError(
            f"{self.path}, line {sample + 2} is damaged: restore the file or choose another --output"
        )

    def _refuse_other(self, asked: Mapping[str, Any]) -> None:
        there = self.settings or {}
        names = [
            name for name in {**there, **asked} if name not in _TOLD and there.get(name) != asked.get(name)
        ]
        if names:
            differing = ", ".join(
                f"{name} {_short(there.get(name))} / {_short(asked.get(name))}" for name in names
            )
            raise UsageError(
                f"{self.path} was made with other settings ({differing}, there / asked): ask for the same or choose another --output"
            )


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 120 else f"{text[:120]}..."


def _whole_lines(data: bytes) -> list[bytes]:
    """Without a last line that is torn: cut short, or the zeros that a power cut leaves."""
    return [part + b"\n" for part in data.split(b"\n")[:-1]]


def _object(part: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(part)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
