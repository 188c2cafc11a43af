"""`regrow evaluate`: answers the problems of a task and records every batch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, final

import typer

from regrow.cli import method_options, options
from regrow.cli.bar import Bar
from regrow.cli.choose_task import chosen
from regrow.cli.group import INTERRUPTED, fail
from regrow.cli.load_model import load
from regrow.cli.table import show
from regrow.format import duration

if TYPE_CHECKING:
    from regrow.decoding.loop import Progress
    from regrow.method.base import Method
    from regrow.records import Record

_TASK = "Task"


@method_options.with_method
def evaluate(
    *,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            rich_help_panel=_TASK,
            help="Record file (.jsonl). Batches that it already holds are not run again.",
        ),
    ],
    model: options.ModelName = None,
    task: Annotated[
        str | None,
        typer.Option(
            "--task",
            "-t",
            rich_help_panel=_TASK,
            metavar="NAME",
            help="Problems to answer: {tasks}. May be left out for the bundled model only.",
        ),
    ] = None,
    batch_size: Annotated[
        int,
        typer.Option(
            min=1,
            rich_help_panel=_TASK,
            help="Prompts decoded together. They share one mask, so results depend on this number.",
        ),
    ] = 8,
    limit: Annotated[
        int | None,
        typer.Option(min=1, rich_help_panel=_TASK, help="Answer only the first N prompts. Default: all."),
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, rich_help_panel=_TASK, help="Longest answer, in tokens.")
    ] = 640,
    pruning: Method,
    calibration: options.CalibrationFile = None,
    dtype: options.DTypeName = "auto",
    device: options.DeviceName = "auto",
    chat: options.Chat = None,
    skip_layers: options.SkipLayers = "",
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Answer the problems of a task greedily, record every batch, and show accuracy, sparsity and speed.

    An interrupted run continues with the same command. `regrow table` shows the results of record files at
    any time, several side by side.

    Example: regrow evaluate --method bap --sparsity 0.5 --limit 40 --out run.jsonl
    """
    dense_layers = options.layers(skip_layers)
    tensors = options.calibration(calibration)
    found = chosen(task, model)
    items = found.load(limit)  # before the model, so that a limit that is too large is found at once
    loaded = load(model, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
    from regrow.evaluation import run_task

    template = bool(loaded.tokenizer.chat_template) if chat is None else chat
    progress = _EvaluateProgress(len(range(0, len(items), batch_size)), max_new_tokens)
    try:
        with progress.bar:
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
                progress=progress.on_batch,
                watch=progress.on_step,
            )
    except KeyboardInterrupt:
        fail(
            f"interrupted: {progress.recorded} batches of this run are kept in {out}; "
            "the same command continues from there",
            INTERRUPTED,
        )
    show([out])


@final
class _EvaluateProgress:
    """Progress callbacks: show batches and steps on a bar, and count the recorded batches."""

    def __init__(self, planned: int, max_new_tokens: int) -> None:
        self.bar, self.recorded = Bar(), 0
        self._done, self._longest = 0, max_new_tokens
        self.bar.begin("batches", planned)

    def on_batch(self, done: int, planned: int, record: Record) -> None:
        if not self.recorded:
            self.bar.skip(done - 1)
        self._done, self.recorded = done, self.recorded + 1
        if planned > 1:
            self.bar.ended(done, f"{done} of {planned}, the last took {duration(record.seconds)}")

    def on_step(self, progress: Progress) -> None:
        self.bar.show(
            self._done + progress.step / self._longest,
            f"{self._done} done, the next at {progress.step} tokens",
        )
