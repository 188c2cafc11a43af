"""`regrow evaluate`: answers a task and records every batch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, final

import typer

from regrow.cli import options
from regrow.cli.bar import Bar
from regrow.cli.group import INTERRUPTED, fail
from regrow.cli.load_model import load
from regrow.cli.table import show
from regrow.cli.task import chosen
from regrow.format import duration

if TYPE_CHECKING:
    from regrow.decoding.loop import Progress
    from regrow.method.base import Method
    from regrow.records import Record

_TASK = "Task"


@options.with_method
def evaluate(
    *,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            rich_help_panel=_TASK,
            help="Record file; a run that was stopped goes on where it was.",
        ),
    ],
    model: options.ModelName = None,
    task: Annotated[
        str | None,
        typer.Option(
            "--task",
            "-t",
            rich_help_panel=_TASK,
            help="Problems to answer: {tasks}; for the bundled model its own.",
        ),
    ] = None,
    batch_size: Annotated[
        int,
        typer.Option(min=1, rich_help_panel=_TASK, help="Prompts decoded together; part of the experiment."),
    ] = 8,
    limit: Annotated[
        int | None, typer.Option(min=1, rich_help_panel=_TASK, help="The first prompts only; by default all.")
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, rich_help_panel=_TASK, help="Limit of an answer.")
    ] = 640,
    pruning: Method,
    calibration: options.CalibrationFile = None,
    dtype: options.DTypeName = "auto",
    device: options.DeviceName = "auto",
    chat: options.Chat = None,
    skip_layers: options.SkipLayers = "",
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Answer the problems of a task greedily, record every batch, and tabulate the record file.

    What was recorded before is not run again. Accuracy and speed come from the file: `regrow table` reads it at any time.
    """
    dense_layers = options.layers(skip_layers)
    tensors = options.calibration(calibration)
    found = chosen(task, model)
    items = found.load(limit)  # a limit that the task cannot meet is found before the model is loaded
    loaded = load(model, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
    from regrow.evaluation import run_task

    template = bool(loaded.tokenizer.chat_template) if chat is None else chat
    told = _EvaluateProgress(len(range(0, len(items), batch_size)), max_new_tokens)
    try:
        with told.bar:
            run_task.evaluate(
                loaded,
                found,
                pruning,
                batch_size=batch_size,
                limit=limit,
                max_new_tokens=max_new_tokens,
                path=out,
                chat=template,
                skip_layers=dense_layers,
                calibration=tensors,
                progress=told.batch,
                watch=told.step,
            )
    except KeyboardInterrupt:
        fail(
            f"interrupted: {told.recorded} batches of this run are kept in {out}; the same command goes on from there",
            INTERRUPTED,
        )
    show([out])


@final
class _EvaluateProgress:
    """What the bar shows of a run."""

    def __init__(self, planned: int, max_new_tokens: int) -> None:
        self.bar, self.recorded = Bar(), 0
        self._done, self._longest = 0, max_new_tokens
        self.bar.begin("batches", planned)

    def batch(self, done: int, planned: int, record: Record) -> None:
        self._done, self.recorded = done, self.recorded + 1
        if planned > 1:
            self.bar.ended(done, f"{done} of {planned}, the last in {duration(record.seconds)}")

    def step(self, progress: Progress) -> None:
        self.bar.show(
            self._done + progress.step / self._longest,
            f"{self._done} done, {progress.step} tokens into the next",
        )
