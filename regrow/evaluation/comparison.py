"""Runs the cells of a comparison: calibration, divergence from dense, then answers.

Results that the directory already holds are not computed again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol, final

from regrow.calibration.calibration import Calibration, calibrated, fingerprint
from regrow.calibration.make_calibration import calibrate
from regrow.calibration.text import Text, read, sequences
from regrow.errors import RegrowError, unwritable
from regrow.evaluation.comparison_plan import ComparisonPlan
from regrow.evaluation.divergence import Trace, divergence, trace
from regrow.evaluation.grid import Cell
from regrow.evaluation.results import divergence_file, read_divergence, records_file, write_divergence
from regrow.evaluation.run_task import configure, describe, evaluate
from regrow.evaluation.tasks.task import batches
from regrow.hosts.hugging_face import prune
from regrow.kernels import repeatable_matmul
from regrow.method.base import Method, Needs
from regrow.method.dense import Dense
from regrow.models import Loaded
from regrow.record_file import refuse_other
from regrow.run_config import RunConfig, differences, digest


class ComparisonListener(Protocol):
    """Progress callbacks."""

    def begin(self, stage: str) -> None: ...

    def batch(self, done: float, total: float) -> None:
        """Called when a batch of the stage has ended; `done` of `total` are complete."""

    def part(self, done: float, total: float) -> None:
        """Called when a part of a calibration is complete: a sequence or a layer."""


@final
class Comparison:
    """Runs cells with one model, and keeps what several cells share."""

    def __init__(self, loaded: Loaded, plan: ComparisonPlan, listener: ComparisonListener) -> None:
        """Creates the directory.

        Raises RegrowError if it cannot be created, UsageError for prompts that do not fit the context.
        """
        self._loaded, self._plan, self._listener = loaded, plan, listener
        # Traces hold the logits of every step, so only those of one batch size are kept.
        self._traces: tuple[int, list[Trace]] = 0, []
        self._texts: dict[Needs, Text] = {}
        self._answers = self._configured(plan.prompts, plan.max_new_tokens)
        self._trace = self._configured(plan.traced, plan.traced_tokens)
        with _disk(plan.directory):
            plan.directory.mkdir(parents=True, exist_ok=True)

    def _configured(self, limit: int, max_new_tokens: int) -> RunConfig:
        """Returns the settings for `limit` prompts, without the method and the batch size of a cell."""
        return configure(
            self._loaded,
            self._plan.task.first(limit),
            Dense(),
            batch_size=1,
            max_new_tokens=max_new_tokens,
            chat=self._plan.chat,
        )

    def check(self, cells: Sequence[Cell]) -> None:
        """Checks, before the first cell runs, that all cells can run.

        Raises UsageError for a calibration text that cannot be used and a model that does not fit a method,
        RegrowError for files that were made with other settings.
        """
        for cell in cells:
            if cell.method.needs is not None:
                self._text(cell.method.needs)
        for method in {
            cell.method.surface: cell.method
            for cell in cells
            if cell.method.needs is None and cell.method.target
        }.values():
            with repeatable_matmul(), prune(self._loaded.model, method):
                pass
        for cell in cells:
            kept = records_file(self._plan.directory, cell), divergence_file(self._plan.directory, cell)
            if any(path.exists() for path in kept):
                self._refuse_other(cell, self._calibration(cell.method))

    def run(self, cell: Cell) -> None:
        """Measures the divergence of one cell and records its answers, as far as they are missing.

        Raises RegrowError if results cannot be written, or were made with other settings.
        """
        calibration = self._calibration(cell.method)
        with repeatable_matmul():
            self._divergence(cell, calibration)
        self._listener.begin(f"{cell.title}: answers")
        evaluate(
            self._loaded,
            self._plan.task.first(self._plan.prompts),
            cell.method,
            batch_size=cell.batch_size,
            max_new_tokens=self._plan.max_new_tokens,
            path=records_file(self._plan.directory, cell),
            chat=self._plan.chat,
            calibration=calibration,
            progress=lambda done, total, _: self._listener.batch(done, total),
        )

    def _text(self, needs: Needs) -> Text:
        """Returns the calibration text for methods with these needs."""
        if needs not in self._texts:
            plan, (count, length) = self._plan, needs.value
            most = (
                min(count, plan.calibration_sequences or count),
                min(length, plan.calibration_length or length),
            )
            self._texts[needs] = sequences(self._loaded, plan.text, *most)
        return self._texts[needs]

    def _calibration(self, method: Method) -> Calibration | None:
        """Returns the calibration for a method: the one in the directory, or else a new one.

        None if the method needs no calibration.
        """
        if method.needs is None:
            return None
        plan = self._plan
        text = plan.text and hashlib.sha256(read(plan.text)).hexdigest()
        made_of = [
            method.name,
            calibrated(method),
            fingerprint(self._loaded.model),
            text,
            plan.calibration_sequences,
        ]
        if plan.calibration_length is not None:
            made_of.append(plan.calibration_length)
        path = plan.directory / "calibration" / f"{method.name}-{digest(made_of)[:12]}.safetensors"
        with _alone(path.parent):
            if path.exists():
                return Calibration.load(path)
            calibration_text = self._text(method.needs)
            self._listener.begin(f"calibrating {method.name}")
            made = calibrate(self._loaded, method, calibration_text, self._listener.part)
            made.save(path)
            return made

    def _divergence(self, cell: Cell, calibration: Calibration | None) -> None:
        """Measures and writes the divergence of a cell, unless its file exists."""
        path = divergence_file(self._plan.directory, cell)
        if path.exists():
            _refuse_settings(path, self._settings(cell, calibration))
            return
        traces = self._traced(cell.batch_size)
        self._listener.begin(f"{cell.title}: divergence")
        found = divergence(self._loaded, cell.method, calibration, traces, self._listener.batch)
        sums = {**asdict(found), "mean_kl": found.mean_kl, "agreement": found.agreement}
        write_divergence(path, {"settings": self._settings(cell, calibration), **sums})

    def _traced(self, batch_size: int) -> list[Trace]:
        """Returns the dense traces at a batch size."""
        plan = self._plan
        if self._traces[0] != batch_size:
            self._traces = batch_size, []
            planned = batches(plan.task.first(plan.traced).items, batch_size)
            self._listener.begin(f"dense traces, batch {batch_size}")
            for done, items in enumerate(planned, 1):
                made = trace(
                    self._loaded,
                    [item.prompt for item in items],
                    chat=plan.chat,
                    system=plan.task.system,
                    max_new_tokens=plan.traced_tokens,
                )
                self._traces[1].append(made)
                self._listener.batch(done, len(planned))
        return self._traces[1]

    def _settings(self, cell: Cell, calibration: Calibration | None) -> dict[str, Any]:
        settings: dict[str, Any] = json.loads(json.dumps(_with(self._trace, cell, calibration).to_dict()))
        return settings

    def _refuse_other(self, cell: Cell, calibration: Calibration | None) -> None:
        path = divergence_file(self._plan.directory, cell)
        if path.exists():
            _refuse_settings(path, self._settings(cell, calibration))
        refuse_other(records_file(self._plan.directory, cell), _with(self._answers, cell, calibration))


def _with(config: RunConfig, cell: Cell, calibration: Calibration | None) -> RunConfig:
    """Returns the settings with the method and the batch size of a cell."""
    params = describe(cell.method, calibration)
    return replace(config, method=params.pop("name"), params=params, batch_size=cell.batch_size)


def parts(cells: Sequence[Cell], part: int, count: int) -> list[Cell]:
    """Returns the share of one process out of `count`: every `count`-th cell from `part` on (from 1)."""
    return list(cells[part - 1 :: count])


def _refuse_settings(path: Path, asked: dict[str, Any]) -> None:
    """Raises RegrowError if a divergence file was made with other settings."""
    there = read_divergence(path)["settings"]
    if there == asked:
        return
    differing = differences(there, asked)
    problem = (
        f"was made with other settings ({differing})"
        if differing
        else "does not say all the settings it was made with"
    )
    raise RegrowError(f"{path} {problem}; choose another --out, or remove it")


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    """Turns an OSError within the context into a RegrowError."""
    try:
        yield
    except OSError as error:
        raise unwritable(path, error, "choose another --out") from error


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Locks the directory while the context lasts; other processes of this comparison wait for the lock.

    The first process makes a calibration, and the others find its file.
    """
    with _disk(directory):
        directory.mkdir(parents=True, exist_ok=True)
        file = (directory / ".lock").open("w")
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
