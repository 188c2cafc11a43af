"""The command lines that make the tables, as a user would type them."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, final

from settings import (
    BATCH_SIZES,
    BENCH_NEW,
    BENCH_PROMPT,
    BENCH_REPEATS,
    CALIBRATIONS,
    DTYPE,
    LONGEST_ANSWER,
    SPARSITY,
    TIMED,
    Calibration,
    Cell,
    Model,
    cells,
)

STEPS: Final = ("calibrate", "evaluate", "bench", "report")


@final
@dataclass(frozen=True)
class Command:
    """One call of `regrow`. `makes`: a file that is whole once it exists, so that the call can be skipped."""

    arguments: tuple[str, ...]
    makes: Path | None = None

    @property
    def step(self) -> str:
        return self.arguments[0]

    @property
    def line(self) -> str:
        return shlex.join(("regrow", *self.arguments))


@final
@dataclass(frozen=True)
class Setting:
    """What a run reads and writes, and the sizes that a dry run makes smaller."""

    out: Path
    weights: Mapping[str, str] = field(default_factory=dict)  # model name -> directory; else from the hub
    data_dir: str | None = None  # None: the hub
    text: str | None = None  # for calibrations; None: C4 from the hub
    device: str = "auto"
    shard: str | None = None
    limit: int | None = None  # questions of a task; None: all
    longest_answer: int = LONGEST_ANSWER
    calibrations: Mapping[str, Calibration] = field(default_factory=lambda: CALIBRATIONS)
    timed: Sequence[str] = TIMED
    bench_prompt: int = BENCH_PROMPT
    bench_new: int = BENCH_NEW
    bench_repeats: int = BENCH_REPEATS

    def model(self, model: Model) -> str:
        return self.weights.get(model.name, model.hub)

    def folder(self, model: Model) -> Path:
        """Returns the folder with all results of a model."""
        return self.out / model.name

    def calibration(self, model: Model, method: str) -> Path:
        return self.folder(model) / "calibration" / f"{method}.safetensors"


def small(setting: Setting) -> Setting:
    """Returns the setting of a dry run: few questions, short answers and texts, and a CPU.

    TEAL reads all weights on a CPU, so `regrow bench` refuses to time it there.
    """
    return replace(
        setting,
        device="cpu",
        limit=2,
        longest_answer=8,
        calibrations={name: Calibration(sequences=2, length=64) for name in CALIBRATIONS},
        timed=[name for name in TIMED if name != "teal"],
        bench_prompt=16,
        bench_new=6,
        bench_repeats=1,
    )


def commands(
    setting: Setting, tables: Iterable[int], models: Sequence[Model], steps: Iterable[str] = STEPS
) -> list[Command]:
    """Returns the calls for these tables, models and steps, in the order in which they must run."""
    chosen = cells(tables := set(tables), models)
    concerned = [
        model for model in models if model.speeds in tables or any(cell.model == model for cell in chosen)
    ]
    needed = dict.fromkeys((cell.model, cell.method) for cell in chosen if cell.method in CALIBRATIONS)
    by_step = {
        "calibrate": [_calibrate(setting, model, method) for model, method in needed],
        "evaluate": [_evaluate(setting, cell, tasks) for cell, tasks in chosen.items()],
        "bench": [each for model in models if model.speeds in tables for each in _bench(setting, model)],
        "report": [_report(setting, concerned)] if concerned else [],
    }
    asked = set(steps)
    return [command for step in STEPS if step in asked for command in by_step[step]]


def _calibrate(setting: Setting, model: Model, method: str) -> Command:
    text, out = setting.calibrations[method], setting.calibration(model, method)
    return _command(
        ["calibrate", setting.model(model), "--method", method, "--sparsity", SPARSITY],
        ["--sequences", text.sequences, "--length", text.length],
        ["--text", setting.text] if setting.text else [],
        ["--dtype", DTYPE, "--device", setting.device, "--out", out],
        makes=out,
    )


def _evaluate(setting: Setting, cell: Cell, tasks: Sequence[str]) -> Command:
    schedule = cell.schedule
    return _command(
        ["evaluate", setting.model(cell.model), "--task", ",".join(tasks)],
        ["--data-dir", setting.data_dir] if setting.data_dir else [],
        ["--limit", setting.limit] if setting.limit else [],
        ["--method", cell.method],
        [] if cell.method == "dense" else ["--sparsity", SPARSITY],
        ["--init-steps", schedule.init_steps, "--explore-steps", schedule.explore_steps] if schedule else [],
        ["--period", schedule.period] if schedule else [],
        ["--calibration", setting.calibration(cell.model, cell.method)]
        if cell.method in CALIBRATIONS
        else [],
        ["--batch-size", cell.batch_size, "--max-new-tokens", setting.longest_answer],
        ["--shard", setting.shard] if setting.shard else [],
        ["--dtype", DTYPE, "--device", setting.device, "--out", setting.folder(cell.model) / "records"],
    )


def _bench(setting: Setting, model: Model) -> Iterator[Command]:
    """Yields a call for each batch size, so that a file is whole once it exists."""
    for size in BATCH_SIZES:
        out = setting.folder(model) / "bench" / f"b{size}.json"
        yield _command(
            ["bench", setting.model(model)],
            [part for method in setting.timed for part in ("--method", method)],
            ["--sparsity", SPARSITY, "--batch-size", size],
            ["--prompt", setting.bench_prompt, "--new", setting.bench_new],
            ["--repeats", setting.bench_repeats, "--compare", "paper"],
            ["--dtype", DTYPE, "--device", setting.device, "--out", out],
            makes=out,
        )


def _report(setting: Setting, models: Sequence[Model]) -> Command:
    return _command(["report", *(setting.folder(model) for model in models), "--out", setting.out / "report"])


def _command(*parts: Sequence[object], makes: Path | None = None) -> Command:
    return Command(tuple(str(part) for some in parts for part in some), makes)
