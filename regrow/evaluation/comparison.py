"""Runs the cells of a comparison: calibrations, divergence from dense, then records. What is there already is not made again."""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, final

from regrow.calibration.result import Calibration, calibrated, fingerprint
from regrow.calibration.run import calibrate
from regrow.calibration.text import read, sequences
from regrow.errors import RegrowError
from regrow.evaluation.divergence import Trace, divergence, trace
from regrow.evaluation.grid import Cell
from regrow.evaluation.run import configure, evaluate
from regrow.evaluation.tasks.base import Task, batches
from regrow.method.base import Method
from regrow.models import Loaded
from regrow.run_config import differences, digest
from regrow.whole_file import write_whole


class Told(Protocol):
    """What a comparison tells of its progress."""

    def __call__(self, what: str, done: float, of: float) -> None: ...


@final
@dataclass(frozen=True)
class Plan:
    """`prompts` of the task are answered, the first `traced` of them also compared token by token."""

    directory: Path
    task: Task
    prompts: int
    traced: int
    max_new_tokens: int
    chat: bool
    text: Path | None = None  # of calibrations; None: the model's own, or C4
    calibration_sequences: int | None = None  # at most; None: what the method asks for


@final
class Comparison:
    def __init__(self, loaded: Loaded, plan: Plan, told: Told) -> None:
        """Creates the directory. Raises RegrowError where that cannot be done."""
        self._loaded, self._plan, self._told = loaded, plan, told
        self._traces: tuple[int, list[Trace]] = 0, []  # of one batch size: they hold the logits of every step
        with _disk(plan.directory):
            plan.directory.mkdir(parents=True, exist_ok=True)

    def run(self, cell: Cell) -> None:
        """Raises RegrowError where results cannot be kept, or are of other settings."""
        calibration = self._calibration(cell.method)
        self._divergence(cell, calibration)
        evaluate(
            self._loaded,
            self._plan.task,
            cell.method,
            batch_size=cell.batch_size,
            limit=self._plan.prompts,
            max_new_tokens=self._plan.max_new_tokens,
            path=records_file(self._plan.directory, cell),
            chat=self._plan.chat,
            calibration=calibration,
            progress=lambda done, of, _: self._told(f"{cell.label}, batch {cell.batch_size}: answers", done, of),
        )

    def _calibration(self, method: Method) -> Calibration | None:
        """The one in the directory if it fits, else a new one."""
        if method.needs is None:
            return None
        plan = self._plan
        text = plan.text and hashlib.sha256(read(plan.text)).hexdigest()
        key = digest([method.name, calibrated(method), fingerprint(self._loaded.model), text, plan.calibration_sequences])[:12]
        path = plan.directory / "calibration" / f"{method.name}-{key}.safetensors"
        with _alone(path.parent):
            if path.exists():
                return Calibration.load(path)
            count, length = method.needs.value
            given = sequences(self._loaded, plan.text, min(count, plan.calibration_sequences or count), length)
            made = calibrate(self._loaded, method, given, lambda done, of: self._told(f"calibrating {method.name}", done, of))
            made.save(path)
            return made

    def _divergence(self, cell: Cell, calibration: Calibration | None) -> None:
        plan, settings = self._plan, self._settings(cell, calibration)
        path = divergence_file(plan.directory, cell)
        if path.exists():
            _refuse_other(path, read_divergence(path)["settings"], settings)
            return
        found = divergence(
            self._loaded,
            cell.method,
            calibration,
            self._traced(cell.batch_size),
            lambda done, of: self._told(f"{cell.label}, batch {cell.batch_size}: divergence", done, of),
        )
        _write(path, {"settings": settings, **asdict(found), "mean_kl": found.mean_kl, "agreement": found.agreement})

    def _traced(self, batch_size: int) -> list[Trace]:
        plan = self._plan
        if self._traces[0] != batch_size:
            self._traces = batch_size, []
            planned = batches(plan.task.load(plan.traced), batch_size)
            for done, items in enumerate(planned, 1):
                made = trace(self._loaded, [item.prompt for item in items], chat=plan.chat, max_new_tokens=plan.max_new_tokens)
                self._traces[1].append(made)
                self._told(f"dense traces, batch {batch_size}", done, len(planned))
        return self._traces[1]

    def _settings(self, cell: Cell, calibration: Calibration | None) -> dict[str, Any]:
        plan = self._plan
        config = configure(
            self._loaded,
            plan.task,
            plan.task.load(plan.traced),
            cell.method,
            batch_size=cell.batch_size,
            max_new_tokens=plan.max_new_tokens,
            chat=plan.chat,
            calibration=calibration,
        )
        settings: dict[str, Any] = json.loads(json.dumps(config.to_dict()))
        return settings


def parts(cells: Sequence[Cell], part: int, of: int) -> list[Cell]:
    """Every `of`-th cell, from the `part`-th on (1 <= part <= of): what one of several processes does."""
    return list(cells[part - 1 :: of])


def records_file(directory: Path, cell: Cell) -> Path:
    return directory / "records" / f"{cell.name}.jsonl"


def divergence_file(directory: Path, cell: Cell) -> Path:
    return directory / "divergence" / f"{cell.name}.json"


def read_divergence(path: Path) -> dict[str, Any]:
    """Raises RegrowError for a damaged file."""
    try:
        value = json.loads(path.read_text())
        if "settings" not in value:
            raise ValueError("no settings")
    except (OSError, ValueError) as error:
        raise RegrowError(f"{path} is damaged ({error}); remove it, and run again") from error
    found: dict[str, Any] = value
    return found


def _refuse_other(path: Path, there: dict[str, Any], asked: dict[str, Any]) -> None:
    if there == asked:
        return
    differing = differences(there, asked)
    what = f"was made with other settings ({differing}, there/asked)" if differing else "does not say all the settings it was made with"
    raise RegrowError(f"{path} {what}; choose another --out, or remove it")


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RegrowError(f"{path} cannot be written: {error.strerror}; make room or choose another --out") from error


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Other processes of the comparison wait here, so that all go by the same calibrations."""
    with _disk(directory):
        directory.mkdir(parents=True, exist_ok=True)
        file = (directory / ".lock").open("w")
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write(path: Path, value: dict[str, Any]) -> None:
    write_whole(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())
