"""Runs the cells of a comparison: calibration, divergence from dense, then answers.

Results that the directory already holds are not computed again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol, final

from regrow.calibration.calibration import Calibration, calibrated, fingerprint
from regrow.calibration.make_calibration import calibrate
from regrow.calibration.text import Text, read, sequences
from regrow.errors import RegrowError
from regrow.evaluation.divergence import Trace, divergence, trace
from regrow.evaluation.grid import Cell
from regrow.evaluation.results import divergence_file, read_divergence, records_file, write_divergence
from regrow.evaluation.run_task import configure, describe, evaluate
from regrow.evaluation.tasks.task import Task, batches
from regrow.hosts.generate import generate
from regrow.hosts.hugging_face import prune
from regrow.method.base import Method, Needs
from regrow.method.dense import Dense
from regrow.models import Loaded, encode
from regrow.record_file import refuse_other
from regrow.run_config import RunConfig, differences, digest

TIMED_TOKENS: Final = 10  # new tokens of the generation that is timed for an estimate


class ComparisonListener(Protocol):
    """Progress callbacks: `done` of `total` batches, or parts of a calibration, of a stage are complete."""

    def batch(self, stage: str, done: float, total: float) -> None: ...
    def calibration(self, stage: str, done: float, total: float) -> None: ...


@final
@dataclass(frozen=True)
class ComparisonPlan:
    """What a comparison runs, apart from its cells."""

    directory: Path
    task: Task
    prompts: int  # number of prompts to answer
    traced: int  # number of prompts for the divergence from dense
    max_new_tokens: int
    chat: bool
    text: Path | None = None  # calibration text; None: see regrow.calibration.text.sequences
    # Limits on the calibration text. None: the method's default.
    calibration_sequences: int | None = None
    calibration_length: int | None = None  # tokens of a sequence


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
        self._configs = {limit: self._configured(limit) for limit in (plan.prompts, plan.traced)}
        with _disk(plan.directory):
            plan.directory.mkdir(parents=True, exist_ok=True)

    def _configured(self, limit: int) -> RunConfig:
        """Returns the settings for `limit` prompts, without the method and the batch size of a cell."""
        plan = self._plan
        items, new = plan.task.load(limit), plan.max_new_tokens
        return configure(
            self._loaded, plan.task, items, Dense(), batch_size=1, max_new_tokens=new, chat=plan.chat
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
            with prune(self._loaded.model, method):
                pass
        for cell in cells:
            kept = records_file(self._plan.directory, cell), divergence_file(self._plan.directory, cell)
            if any(path.exists() for path in kept):
                self._refuse_other(cell, self._calibration(cell.method))

    def estimate(self, cells: Sequence[Cell]) -> float:
        """Returns how many seconds the cells take if every answer runs to its limit of tokens.

        Times a short dense generation at each batch size. Calibrations are not counted.
        """
        return sum(
            count * self._seconds(size) for size, count in batches_to_run(self._plan, cells).items() if count
        )

    def _seconds(self, batch_size: int) -> float:
        """Returns the estimated seconds of one batch whose answers run to the limit."""
        items = self._plan.task.load(min(batch_size, self._plan.prompts))
        ids, mask = encode(self._loaded, [item.prompt for item in items], chat=self._plan.chat)
        most = self._plan.max_new_tokens

        def timed(tokens: int) -> float:
            began = time.perf_counter()
            how = {"max_new_tokens": tokens, "min_new_tokens": tokens, **self._loaded.beside_prompts}
            generate(self._loaded.model, ids, mask, do_sample=False, **how)
            return time.perf_counter() - began

        timed(2)  # warm-up: the first batch also pays for one-time setup
        short, long = min(2, most), min(TIMED_TOKENS, most)
        prompt, whole = (min(timed(tokens) for _ in range(2)) for tokens in (short, long))
        return prompt + max(whole - prompt, 0.0) / max(long - short, 1) * (most - short)

    def run(self, cell: Cell) -> None:
        """Measures the divergence of one cell and records its answers, as far as they are missing.

        Raises RegrowError if results cannot be written, or were made with other settings.
        """
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
            progress=lambda done, total, _: self._listener.batch(
                f"{cell.label}, batch {cell.batch_size}: answers", done, total
            ),
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
            made = calibrate(
                self._loaded,
                method,
                calibration_text,
                lambda done, total: self._listener.calibration(f"calibrating {method.name}", done, total),
            )
            made.save(path)
            return made

    def _divergence(self, cell: Cell, calibration: Calibration | None) -> None:
        """Measures and writes the divergence of a cell, unless its file exists."""
        path = divergence_file(self._plan.directory, cell)
        if path.exists():
            _refuse_settings(path, self._settings(cell, calibration))
            return
        found = divergence(
            self._loaded,
            cell.method,
            calibration,
            self._traced(cell.batch_size),
            lambda done, total: self._listener.batch(
                f"{cell.label}, batch {cell.batch_size}: divergence", done, total
            ),
        )
        sums = {**asdict(found), "mean_kl": found.mean_kl, "agreement": found.agreement}
        write_divergence(path, {"settings": self._settings(cell, calibration), **sums})

    def _traced(self, batch_size: int) -> list[Trace]:
        """Returns the dense traces at a batch size."""
        plan = self._plan
        if self._traces[0] != batch_size:
            self._traces = batch_size, []
            planned = batches(plan.task.load(plan.traced), batch_size)
            for done, items in enumerate(planned, 1):
                made = trace(
                    self._loaded,
                    [item.prompt for item in items],
                    chat=plan.chat,
                    max_new_tokens=plan.max_new_tokens,
                )
                self._traces[1].append(made)
                self._listener.batch(f"dense traces, batch {batch_size}", done, len(planned))
        return self._traces[1]

    def _config(self, limit: int, cell: Cell, calibration: Calibration | None) -> RunConfig:
        params = describe(cell.method, calibration)
        return replace(
            self._configs[limit], method=params.pop("name"), params=params, batch_size=cell.batch_size
        )

    def _settings(self, cell: Cell, calibration: Calibration | None) -> dict[str, Any]:
        settings: dict[str, Any] = json.loads(
            json.dumps(self._config(self._plan.traced, cell, calibration).to_dict())
        )
        return settings

    def _refuse_other(self, cell: Cell, calibration: Calibration | None) -> None:
        path = divergence_file(self._plan.directory, cell)
        if path.exists():
            _refuse_settings(path, self._settings(cell, calibration))
        refuse_other(
            records_file(self._plan.directory, cell), self._config(self._plan.prompts, cell, calibration)
        )


def batches_to_run(plan: ComparisonPlan, cells: Sequence[Cell]) -> Counter[int]:
    """Counts the batches of traces, divergences and answers that are left to run, by batch size.

    A file that exists counts as complete.
    """
    untraced = [cell for cell in cells if not divergence_file(plan.directory, cell).exists()]
    unanswered = [cell for cell in cells if not records_file(plan.directory, cell).exists()]
    left: Counter[int] = Counter()
    for size in [*{cell.batch_size for cell in untraced}, *(cell.batch_size for cell in untraced)]:
        left[size] += -(-plan.traced // size)
    for cell in unanswered:
        left[cell.batch_size] += -(-plan.prompts // cell.batch_size)
    return left


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
        f"was made with other settings ({differing}, there/asked)"
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
        raise RegrowError(
            f"{path} cannot be written: {error.strerror}; make room or choose another --out"
        ) from error


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Locks the directory while the context lasts; other processes of the comparison wait for it.

    All processes therefore use the same calibrations.
    """
    with _disk(directory):
        directory.mkdir(parents=True, exist_ok=True)
        file = (directory / ".lock").open("w")
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
