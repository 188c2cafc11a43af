"""The file of `generate --output`: a line of settings, then the samples in the order of their prompts.

Samples are written one whole batch at a time, because the samples of a batch share their masks. A run that
continues such a file therefore gives the same samples as an uninterrupted run. Lossless runs in bfloat16 or
float16 can differ in near ties, because the windows of the two runs may adapt to other measured costs.
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
from regrow.errors import RegrowError, UsageError, unwritable

_START = b'{"type": "settings", '
# Settings that may differ when a run continues: digests identify the model, and versions may change.
_INFORMATIVE = ("model", "versions")
_KEPT = "the batches finished before are kept"


@final
class SampleFile:
    """The output file of a run.

    The constructor opens it, so that a file that cannot be written is found before anything is decoded.
    Its content does not change until `begin`.
    """

    def __init__(self, path: Path) -> None:
        """Opens and reads the file.

        Raises UsageError if the file cannot be written or holds anything but samples, RegrowError if it is
        damaged or another process is writing it.
        """
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
        """Cuts off incomplete batches, and returns the samples of all complete batches.

        Raises UsageError if the samples were made with other settings, RegrowError if they do not fit the
        prompts.
        """
        asked = {"type": "settings", **json.loads(line(settings))}
        if not self._samples:  # no sample is lost, even if the settings were different
            self._cut()
            self._append([asked])
            return []
        self._refuse_other(asked)
        if len(self._samples) > len(prompts):
            raise RegrowError(
                f"{self.path} holds more samples than there are prompts; "
                "restore the file or choose another --output"
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
        """Appends the samples, and returns when they are on disk.

        Raises RegrowError if they cannot all be written; then the file holds none of them.
        """
        self._append(samples)
        self._written = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._made and self._regular and not self._written:
            self.path.unlink(missing_ok=True)  # this run created the file and wrote no sample
        os.close(self._descriptor)  # this releases the lock

    def _append(self, values: Sequence[Mapping[str, Any]]) -> None:
        data = "".join(f"{line(value)}\n" for value in values).encode()
        try:
            write_through(self._descriptor, data)
        except OSError as error:
            with suppress(OSError):  # the incomplete line then stays, and the next run cuts it off
                self._cut()
            kept = _KEPT if self._regular and (self._written or self._samples) else ""
            raise unwritable(self.path, error, "choose another --output", kept) from error
        self._size += len(data)

    def _cut(self) -> None:
        if self._regular:
            os.ftruncate(self._descriptor, self._size)

    def _read(self) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
        """Returns the settings and the samples, without an incomplete last line.

        Also sets `_ends`, the number of bytes up to the end of the settings and of each sample. Raises
        UsageError if the file holds something else, RegrowError if a line is damaged.
        """
        data = self.path.read_bytes()
        lines = _whole_lines(data)
        if not lines and (data.startswith(_START) or _START.startswith(data.rstrip(b"\0"))):
            return None, []
        settings = _object(lines[0]) if lines and lines[0].startswith(_START) else None
        if settings is None:
            raise UsageError(
                f"{self.path} does not hold samples of `regrow generate`; choose another --output"
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
            name
            for name in {**there, **asked}
            if name not in _INFORMATIVE and there.get(name) != asked.get(name)
        ]
        if names:
            differing = ", ".join(
                f"{name} is {_short(there.get(name))} there and {_short(asked.get(name))} here"
                for name in names
            )
            raise UsageError(
                f"{self.path} was made with other settings ({differing}): "
                "ask for the same or choose another --output"
            )


def _short(value: object) -> str:
    """Returns the value as JSON, cut off if it is long."""
    text = json.dumps(value)
    return text if len(text) <= 120 else f"{text[:120]}..."


def _whole_lines(data: bytes) -> list[bytes]:
    """Returns the complete lines, each with its newline.

    Bytes after the last newline are dropped: a line that was not finished, or NUL bytes after a power cut.
    """
    return [part + b"\n" for part in data.split(b"\n")[:-1]]


def _object(part: bytes) -> dict[str, Any] | None:
    """Returns the JSON object in a line, or None if the line is anything else."""
    try:
        value = json.loads(part)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
