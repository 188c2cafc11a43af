"""Finds and reads the results in directories: record files, divergence files and results of benchmarks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from regrow.bench.bench_result import Result
from regrow.errors import RegrowError, UsageError
from regrow.evaluation.grading import grade
from regrow.evaluation.results import read_divergence
from regrow.records import Graded, Record
from regrow.run_config import RunConfig, written_format


@final
@dataclass(frozen=True)
class RecordedRun:
    """A run: the settings, and the files that hold its batches."""

    config: RunConfig
    files: tuple[Path, ...]

    def graded(self, left_out: list[tuple[Path, str]]) -> Graded | None:
        """Grades the batches of all files together; None if the only file cannot be graded.

        That file is added to `left_out`. Raises UsageError or RegrowError if one of several files cannot be
        graded, or if two hold the same batch: a part of a run must not be left out silently.
        """
        try:
            return grade(*self.files)
        except (UsageError, RegrowError) as error:
            if len(self.files) > 1:
                raise
            left_out.append((self.files[0], str(error)))
            return None


@final
@dataclass(frozen=True)
class RecordedDivergence:
    """A divergence from dense: the settings it was measured with, and the content of its file."""

    config: RunConfig
    content: Mapping[str, Any]


@final
@dataclass(frozen=True)
class Bench:
    """The result of a benchmark, and its file."""

    file: Path
    result: Result

    @property
    def name(self) -> str:
        """Name of the file and of its folder."""
        return "/".join(self.file.parts[-2:])

    @property
    def device(self) -> str:
        return self.result.made_with.get("device", "an unnamed device")


@final
@dataclass
class Sources:
    """What the directories hold. `left_out` has the files that could not be read, with the reason."""

    runs: list[RecordedRun] = field(default_factory=list)
    divergences: list[RecordedDivergence] = field(default_factory=list)
    benches: list[Bench] = field(default_factory=list)
    left_out: list[tuple[Path, str]] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        return not (self.runs or self.divergences or self.benches)


def read(given: Sequence[Path]) -> Sources:
    """Reads every result in these directories and files, at any depth.

    Raises UsageError if a path does not exist or if there is no result at all.
    """
    found, by_key = Sources(), dict[str, list[tuple[RunConfig, Path]]]()
    for path in _files(given):
        try:
            if path.suffix == ".jsonl":
                config = _config(path)
                by_key.setdefault(config.key, []).append((config, path))
            else:
                _read_json(path, found)
        except (UsageError, RegrowError) as error:
            found.left_out.append((path, str(error)))
    found.runs = [RecordedRun(same[0][0], tuple(path for _, path in same)) for same in by_key.values()]
    if found.empty:
        raise UsageError(
            f"{', '.join(map(str, given))}: no results here; name directories with files that "
            "`regrow evaluate`, `regrow compare` or `regrow bench` wrote" + _first(found.left_out)
        )
    return found


def _first(left_out: Sequence[tuple[Path, str]]) -> str:
    return f" (the first that cannot be read: {left_out[0][1]})" if left_out else ""


def _files(given: Iterable[Path]) -> Iterator[Path]:
    """Yields the files to read, each once. Raises UsageError for a path that does not exist."""
    seen = set()
    for start in given:
        if not start.exists():
            raise UsageError(f"{start} does not exist; name a directory with results")
        for path in sorted(start.rglob("*")) if start.is_dir() else [start]:
            if path.suffix in (".jsonl", ".json") and path.is_file() and path.resolve() not in seen:
                seen.add(path.resolve())
                yield path


def _config(path: Path) -> RunConfig:
    """Returns the settings in the first line of a record file.

    Raises UsageError or RegrowError if the file cannot be read or holds no complete batch.
    """
    try:
        with path.open("rb") as file:
            return Record.parse(file.readline()).config
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError:
        return grade(path).config  # raises the error that says what is wrong with the file


def _read_json(path: Path, found: Sources) -> None:
    """Adds a divergence or a benchmark to `found`. Other JSON files, such as table.json, are no results."""
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise RegrowError(f"{path} is not JSON; restore the file or leave it out") from error
    if not isinstance(value, dict):
        return
    if {"settings", "mean_kl"} <= set(value):
        found.divergences.append(_divergence(path))
    elif isinstance(rows := value.get("rows"), list) and any(
        isinstance(row, dict) and "tokens_per_second" in row for row in rows
    ):
        found.benches.append(Bench(path, Result.load(path)))


def _divergence(path: Path) -> RecordedDivergence:
    """Reads a divergence file. Raises RegrowError if it is damaged."""
    content = read_divergence(path)
    settings = content["settings"]
    try:
        return RecordedDivergence(RunConfig.from_dict(settings, written_format(settings)), content)
    except (ValueError, TypeError, AttributeError) as error:
        raise RegrowError(f"{path} is damaged ({error}); remove it, and run again") from error
