"""`regrow evaluate`: answers the questions of tasks and records every batch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, final

import typer

from regrow.cli import method_options, options
from regrow.cli.bar import Bar
from regrow.cli.choose_task import ChosenTasks, with_tasks
from regrow.cli.group import INTERRUPTED, fail
from regrow.cli.load_model import load
from regrow.cli.sampling import sampling
from regrow.cli.table import show
from regrow.cli.terminal import say
from regrow.errors import UsageError
from regrow.format import rate

if TYPE_CHECKING:
    from regrow.decoding.loop import Progress
    from regrow.evaluation.task_grid import Run
    from regrow.method.base import Method
    from regrow.records import Record

_RUN, _SAMPLING = "Run", "Sampling"


@with_tasks
@method_options.with_methods
def evaluate(
    *,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE|DIR",
            rich_help_panel=_RUN,
            help="Record file (.jsonl), or a directory for the files of several runs. Batches that are there "
            "already are not run again.",
        ),
    ],
    model: options.ModelName = None,
    chosen: ChosenTasks,
    limit: Annotated[
        int | None,
        typer.Option(min=1, rich_help_panel=_RUN, help="Answer only the first N prompts. Default: all."),
    ] = None,
    batch_size: Annotated[
        list[str] | None,
        typer.Option(
            metavar="N,...",
            rich_help_panel=_RUN,
            help="Prompts decoded together. They share one mask, so results depend on it. Default: 8.",
        ),
    ] = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            rich_help_panel=_RUN,
            help="Longest answer, in tokens. Default: 16000, or what the context leaves if that is less.",
        ),
    ] = None,
    shard: options.Shard = "1/1",
    temperature: Annotated[
        float | None,
        typer.Option(rich_help_panel=_SAMPLING, help="Temperature of sampling. Default: 0, greedy."),
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(rich_help_panel=_SAMPLING, help="Sample from the likeliest tokens of this share only."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(rich_help_panel=_SAMPLING, help="Seed of sampling. Default: 0.")
    ] = None,
    samples: Annotated[
        int,
        typer.Option(
            min=1, rich_help_panel=_SAMPLING, help="Answers to each prompt, for the mean over them."
        ),
    ] = 1,
    prunings: list[Method],
    calibration: options.CalibrationFiles = None,
    dtype: options.DTypeName = "auto",
    device: options.DeviceName = "auto",
    chat: options.Chat = None,
    skip_layers: options.SkipLayers = "",
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Answer the questions of tasks, record every batch, and show accuracy, sparsity and speed.

    Several tasks, methods, sparsities or batch sizes make a grid, with a record file for each combination. An
    interrupted run continues with the same command. `regrow table` and `regrow report` show the results at
    any time.

    Example: regrow evaluate --method dense,bap --sparsity 0.3,0.5 --limit 40 --out results
    """
    from regrow.evaluation.task_grid import runs

    how = sampling(temperature, top_p, 0 if temperature and seed is None else seed)
    dense_layers, part = options.layers(skip_layers), options.shard(shard)
    sizes = [options.batch_size(size) for size in options.several(batch_size)] or [8]
    tensors = options.calibrations(calibration, prunings)
    # Tasks are loaded before the model, so that data that cannot be used are found at once.
    tasks = [task.first(limit) for task in chosen.load(model)]
    planned = runs(tasks, prunings, sizes)
    files = _files(out, planned, part)
    loaded = load(model, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
    from regrow.evaluation import run_task

    template = bool(loaded.tokenizer.chat_template) if chat is None else chat
    settings: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "chat": template,
        "sampling": how,
        "samples": samples,
        "skip_layers": dense_layers,
    }
    for run, file in zip(planned, files, strict=True) if len(planned) > 1 else ():
        run_task.check(
            loaded,
            run.task,
            run.method,
            path=file,
            batch_size=run.batch_size,
            calibration=tensors.get(run.method),
            **settings,
        )
    progress = _EvaluateProgress(len(planned), max_new_tokens or run_task.LONGEST_ANSWER)
    try:
        with progress.bar:
            for run, file in zip(planned, files, strict=True):
                progress.begin(run.title, len(run.batches(samples)[part[0] - 1 :: part[1]]))
                run_task.evaluate(
                    loaded,
                    run.task,
                    run.method,
                    batch_size=run.batch_size,
                    path=file,
                    calibration=tensors.get(run.method),
                    shard=part,
                    progress=progress.on_batch,
                    watch=progress.on_step,
                    **settings,
                )
    except KeyboardInterrupt:
        fail(
            f"interrupted: {progress.recorded} batches of this run are kept in {out}; "
            "the same command continues from there",
            INTERRUPTED,
        )
    recorded = [file for file in files if file.exists()]
    if recorded:
        show(recorded)
    else:
        say(f"shard {shard} holds no batch, because there are fewer batches than shards")


def _files(out: Path, planned: list[Run], shard: tuple[int, int]) -> list[Path]:
    """Returns the record file of each run. Raises UsageError for one file and several runs."""
    several = len(planned) > 1
    if several and out.suffix == ".jsonl":
        raise UsageError(f"--out {out} is one file, and {len(planned)} runs are asked for; give a directory")
    if several or out.is_dir() or not (out.suffix or out.exists()):
        return [run.file(out, shard) for run in planned]
    return [out]


@final
class _EvaluateProgress:
    """Progress callbacks: show batches and steps on a bar, and count the recorded batches."""

    def __init__(self, runs: int, longest: int) -> None:
        self.bar, self.recorded = Bar(), 0
        self._runs, self._longest, self._number, self._done = runs, longest, 0, 0

    def begin(self, title: str, batches: int) -> None:
        """Starts the bar of the next run, which has so many batches."""
        self._number, self._done = self._number + 1, 0
        number = f"run {self._number} of {self._runs}: " if self._runs > 1 else ""
        self.bar.begin(f"{number}{title}", batches)

    def on_batch(self, done: int, planned: int, record: Record) -> None:
        if not self._done:
            self.bar.skip(done - 1)
        self._done, self.recorded = done, self.recorded + 1
        speed = rate(record.counted.decode_tokens_per_second)
        self.bar.ended(done, f"{done} of {planned} batches, the last at {speed} tokens/s")

    def on_step(self, progress: Progress) -> None:
        self.bar.show(
            self._done + min(progress.step / self._longest, 1.0),
            f"{self._done} done, the next at {progress.step} tokens",
        )
