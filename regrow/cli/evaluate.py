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
from regrow.format import batches, count, rate

if TYPE_CHECKING:
    from regrow.decoding.loop import Progress
    from regrow.evaluation.task_grid import Run
    from regrow.method.base import Method
    from regrow.records import Record
    from regrow.run_config import RunConfig

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
        typer.Option(
            min=1, rich_help_panel=_RUN, help="Answer only the first N prompts of each task. Default: all."
        ),
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
    weights: options.WeightsName = "stored",
    device: options.DeviceName = "auto",
    chat: options.Chat = None,
    skip_layers: options.SkipLayers = "",
    trust_remote_code: options.TrustRemoteCode = False,
    json: options.Json = False,
) -> None:
    """Answer the questions of tasks, record every batch, and show accuracy, sparsity and speed.

    Several tasks, methods, sparsities or batch sizes make a grid, with a record file for each combination. An
    interrupted run continues with the same command. `regrow table` and `regrow report` show the results at
    any time.

    Example: regrow evaluate --method dense,bap --sparsity 0.3,0.5 --limit 40 --out results
    """
    from regrow.evaluation.task_grid import refuse_other_shards, runs
    from regrow.evaluation.tasks.task import first_of_each

    how = sampling(temperature, top_p, 0 if temperature and seed is None else seed)
    dense_layers, part = options.layers(skip_layers), options.shard(shard)
    sizes = [options.batch_size(size) for size in options.several(batch_size)] or [8]
    tensors = options.calibrations(calibration, prunings)
    # Tasks are loaded before the model, so that data that cannot be used are found at once.
    tasks = first_of_each(chosen.load(model), limit)
    planned = runs(tasks, prunings, sizes)
    files = _files(out, planned, part)
    for file in files:
        refuse_other_shards(file, part[1])
    loaded = load(model, dtype=dtype, device=device, trust_remote_code=trust_remote_code, weights=weights)
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
    progress = _EvaluateProgress(len(planned))
    try:
        with progress.bar:
            for run, file in zip(planned, files, strict=True):
                progress.of(run.title, file)
                run_task.evaluate(
                    loaded,
                    run.task,
                    run.method,
                    batch_size=run.batch_size,
                    path=file,
                    calibration=tensors.get(run.method),
                    shard=part,
                    begin=progress.on_begin,
                    progress=progress.on_batch,
                    watch=progress.on_step,
                    **settings,
                )
    except KeyboardInterrupt:
        fail(f"interrupted: {progress.kept}", INTERRUPTED)
    written = [file for file in files if file.exists()]
    if written or json:
        show(written, json=json)
    if not written:
        say(f"shard {shard} holds no batch, because there are fewer batches than shards")
    elif len(planned) > 1:
        say(f"the records are in {count(len(written), 'file')} in {out}")
    else:
        say(f"the records are in {written[0]}")


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
    """Progress callbacks: say what a run finds recorded, and show its batches and steps on a bar."""

    def __init__(self, runs: int) -> None:
        self.bar, self._runs, self._number = Bar(), runs, 0

    def of(self, title: str, file: Path) -> None:
        """Names the next run and its file. Called before it begins."""
        self._number, self._file = self._number + 1, file
        self._title = f"run {self._number} of {self._runs}: {title}" if self._runs > 1 else title

    def on_begin(self, config: RunConfig, there: int, planned: int) -> None:
        self._longest, self._done, self._planned = config.max_new_tokens, there, planned
        if there:
            rest = "the run goes on from there" if there < planned else "nothing is left to run"
            say(f"{self._title}: found {there} of {batches(planned)} in {self._file}; {rest}")
        self.bar.begin(self._title, planned, "this run" if self._runs > 1 else "")
        self.bar.skip(there)

    def on_batch(self, done: int, planned: int, record: Record) -> None:
        self._done = done
        speed = rate(record.counted.decode_tokens_per_second)
        self.bar.ended(done, f"{done} of {batches(planned)}, the last at {speed} tokens/s")

    def on_step(self, progress: Progress) -> None:
        step, longest = progress.step, self._longest
        where = f"batch {self._done + 1} of {self._planned} at {step} of {count(longest, 'token')}"
        self.bar.show(self._done + step / longest, where)

    @property
    def kept(self) -> str:
        """What an interrupted run leaves, and how it goes on."""
        from regrow.record_file import recorded

        if found := recorded(self._file):
            return f"{self._file} holds {batches(found)} of this run; the same command continues from there"
        return "no batch of this run is complete; the same command begins it again"
