"""Runs the cells of a comparison: calibrations, divergence from dense, then records. What is there already is not made again."""

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

TIMED_TOKENS: Final = 10  # new tokens of the generation that an estimate is made from


class ComparisonListener(Protocol):
    """A callback for the progress of a comparison: `done` of `total` batches, or layers, of `what`."""

    def __call__(self, what: str, done: float, total: float) -> None: ...


@final
@dataclass(frozen=True)
class ComparisonPlan:
    """`prompts` of the task are answered, the first `traced` of them also compared token by token."""

    directory: Path
    task: Task
    prompts: int
    traced: int
    max_new_tokens: int
    chat: bool
    text: Path | None = None  # of calibrations; None: the model's own, or C4
    calibration_sequences: int | None = None  # at most; None: what the method asks for
    calibration_length: int | None = None  # tokens of each, likewise


@final
class Comparison:
    def __init__(self, loaded: Loaded, plan: ComparisonPlan, told: ComparisonListener) -> None:
        """Creates the directory. Raises RegrowError where that cannot be done, UsageError for prompts that do not fit."""
        self._loaded, self._plan, self._told = loaded, plan, told
        self._traces: tuple[int, list[Trace]] = 0, []  # of one batch size: they hold the logits of every step
        self._texts: dict[Needs, Text] = {}
        self._configs = {limit: self._configured(limit) for limit in (plan.prompts, plan.traced)}
        with _disk(plan.directory):
            plan.directory.mkdir(parents=True, exist_ok=True)

    def _configured(self, limit: int) -> RunConfig:
        """For so many prompts; method and batch size are still to be filled in."""
        plan = self._plan
        items, new = plan.task.load(limit), plan.max_new_tokens
        return configure(
            self._loaded, plan.task, items, Dense(), batch_size=1, max_new_tokens=new, chat=plan.chat
        )

    def check(self, cells: Sequence[Cell]) -> None:
        """Finds what would stop one of the cells before the first one runs: a text, a model that a method does not fit, files of other
        settings. Raises RegrowError or UsageError."""
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

        A short dense generation at each batch size is timed for it. Calibrations are not counted.
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

        timed(2)  # the first batch also pays for what is set up once
        short, long = min(2, most), min(TIMED_TOKENS, most)
        prompt, whole = timed(short), timed(long)
        return prompt + max(whole - prompt, 0.0) / max(long - short, 1) * (most - short)

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
            progress=lambda done, of, _: self._told(
                f"{cell.label}, batch {cell.batch_size}: answers", done, of
            ),
        )

    def _text(self, needs: Needs) -> Text:
        if needs not in self._texts:
            plan, (count, length) = self._plan, needs.value
            most = (
                min(count, plan.calibration_sequences or count),
                min(length, plan.calibration_length or length),
            )
            self._texts[needs] = sequences(self._loaded, plan.text, *most)
        return self._texts[needs]

    def _calibration(self, method: Method) -> Calibration | None:
        """The one in the directory if it fits, else a new one."""
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
            given = self._text(method.needs)
            made = calibrate(
                self._loaded,
                method,
                given,
                lambda done, of: self._told(f"calibrating {method.name}", done, of),
            )
            made.save(path)
            return made

    def _divergence(self, cell: Cell, calibration: Calibration | None) -> None:
        path = divergence_file(self._plan.directory, cell)
        if path.exists():
            _refuse_settings(path, self._settings(cell, calibration))
            return
        found = divergence(
            self._loaded,
            cell.method,
            calibration,
            self._traced(cell.batch_size),
            lambda done, of: self._told(f"{cell.label}, batch {cell.batch_size}: divergence", done, of),
        )
        sums = {**asdict(found), "mean_kl": found.mean_kl, "agreement": found.agreement}
        write_divergence(path, {"settings": self._settings(cell, calibration), **sums})

    def _traced(self, batch_size: int) -> list[Trace]:
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
                self._told(f"dense traces, batch {batch_size}", done, len(planned))
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
    there = read_divergence(path)["settings"]
    if there == asked:
        return
    differing = differences(there, asked)
    what = (
        f"was made with other settings ({differing}, there/asked)"
        if differing
        else "does not say all the settings it was made with"
    )
    raise RegrowError(f"{path} {what}; choose another --out, or remove it")


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RegrowError(
            f"{path} cannot be written: {error.strerror}; make room or choose another --out"
        ) from error


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Other processes of the comparison wait here, so that all go by the same calibrations."""
    with _disk(directory):
        directory.mkdir(parents=True, exist_ok=True)
        file = (directory / ".lock").open("w")
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
