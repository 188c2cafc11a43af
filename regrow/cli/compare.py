"""`regrow compare`: runs every method on the same prompts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, final

import typer

from regrow.cli import options
from regrow.cli.bar import Bar
from regrow.cli.choose_task import ChosenTasks, with_tasks
from regrow.cli.group import INTERRUPTED, fail
from regrow.cli.load_model import load
from regrow.cli.terminal import say
from regrow.errors import UsageError
from regrow.format import batches, count, duration

if TYPE_CHECKING:
    from regrow.evaluation.comparison import Comparison
    from regrow.evaluation.comparison_plan import ComparisonPlan
    from regrow.evaluation.grid import Cell
    from regrow.models import Loaded

_GRID, _OUTPUT = "Grid", "Output"


@with_tasks
def compare(
    *,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            rich_help_panel=_OUTPUT,
            help="Directory for the results. Results that it already holds are not computed again.",
        ),
    ],
    model: options.ModelName = None,
    chosen: ChosenTasks,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            rich_help_panel=_GRID,
            help="A first look in minutes: batch size 4 and few prompts; for larger models also shorter "
            "answers and fewer methods. Not a reliable result.",
        ),
    ] = False,
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            "-m",
            metavar="NAME,...",
            rich_help_panel=_GRID,
            help="Run only dense and these methods, with default parameters: {methods}. "
            "Default: all methods and several variants.",
        ),
    ] = None,
    sparsity: Annotated[
        list[str] | None,
        typer.Option(
            "--sparsity",
            "-s",
            metavar="S,...",
            rich_help_panel=_GRID,
            help="Target sparsities, such as 0.3,0.5. Default: 0.5, and at batch size 4 also 0.3 and 0.7.",
        ),
    ] = None,
    batch_size: Annotated[
        list[str] | None,
        typer.Option(
            metavar="N,...",
            rich_help_panel=_GRID,
            help="Prompts decoded together, such as 1,4. Default: 4,16,8,1 (with --quick 4).",
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LABEL",
            rich_help_panel=_GRID,
            help='Run only this row of the table, such as "BAP, T_init 16"; may be repeated.',
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1,
            rich_help_panel=_GRID,
            help="Prompts of each task to answer. Default: 200 (with --quick 4 or 8).",
        ),
    ] = None,
    traced: Annotated[
        int | None,
        typer.Option(
            min=1,
            rich_help_panel=_GRID,
            help="Prompts for the comparison with dense, token by token. Default: 48 (with --quick 4), or "
            "one batch if their logits take too much memory.",
        ),
    ] = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            min=2,
            rich_help_panel=_GRID,
            help="Longest answer in tokens. Default: 16000, or what the context leaves; 600 for the "
            "exercises of the bundled model; less with --quick.",
        ),
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            rich_help_panel=_GRID,
            help="Text for the calibrations; formats and default are those of `regrow calibrate --text`.",
        ),
    ] = None,
    dtype: options.DTypeName = "auto",
    weights: options.WeightsName = "stored",
    device: options.DeviceName = "auto",
    trust_remote_code: options.TrustRemoteCode = False,
    shard: options.Shard = "1/1",
    table: Annotated[
        bool,
        typer.Option(
            "--table", rich_help_panel=_OUTPUT, help="Run nothing; make the tables from the results in --out."
        ),
    ] = False,
) -> None:
    """Run every method on the same prompts, at several batch sizes and sparsities, and tabulate the results.

    Each cell of this grid, one method at one batch size and sparsity, is measured twice. First its next-token
    distributions are compared with the dense model's, along dense answers. Then its own answers are graded.
    The directory holds the records and table.md, table.json, figure.svg and tradeoff.svg. An interrupted
    comparison continues with the same command.

    Example: regrow compare --quick --out comparison
    """
    if method and only:
        raise UsageError("--method and --only exclude each other; choose one")
    names, sparsities = options.several(method), _sparsities(sparsity)
    sizes = [options.batch_size(size) for size in options.several(batch_size)]
    mine, shards = options.shard(shard)
    from regrow.evaluation import grid, scale
    from regrow.evaluation.tasks.task import first_of_each

    batch_sizes = tuple(sizes or ((grid.SWEPT,) if quick else grid.BATCH_SIZES))
    cells = grid.grid(batch_sizes, sparsities, others=not quick, methods=names, only=only or ())
    if absent := set(names) - {cell.method.name for cell in cells}:
        raise UsageError(
            f"method {min(absent)!r} prunes two of each four weights, so it only runs at sparsity "
            f"{grid.SPARSITY}; add --sparsity {grid.SPARSITY}, or leave the method out"
        )
    if table:
        _show(_directories(out), cells)
        return
    tasks = chosen.load(model)
    first_of_each(tasks, max(limit or 1, traced or 1))  # refuses more prompts than a single task has
    loaded = load(model, dtype=dtype, device=device, trust_remote_code=trust_remote_code, weights=weights)
    from regrow.cli.compare_plan import Asked
    from regrow.evaluation import comparison

    size = scale.quick(loaded.model.num_parameters()) if quick else scale.FULL
    if size.labels and not only and not names:
        cells = [cell for cell in cells if cell.label in size.labels]
    asked = Asked(limit, traced, max_new_tokens, text, size, max(batch_sizes))
    plans = [asked.plan(loaded, task, out if len(tasks) == 1 else out / task.name) for task in tasks]
    own = comparison.parts(cells, mine, shards)
    with Bar() as bar:
        listeners = [_CompareProgress(bar, plan.task.name if len(plans) > 1 else "") for plan in plans]
        runners = [comparison.Comparison(loaded, *given) for given in zip(plans, listeners, strict=True)]
        for runner in runners:
            runner.check(own)
        _announce(loaded, plans, own, bar)
        for progress, plan in zip(listeners, plans, strict=True):
            _run(runners.pop(0), own, progress, plan.directory)  # its traces are gone with it
    if shards > 1:  # other shards may still be running
        typer.echo(
            f"shard {shard} is complete; when all shards are, "
            f"`regrow compare --out {out} --table` makes the tables"
        )
        return
    _show([plan.directory for plan in plans], cells)


def _directories(out: Path) -> list[Path]:
    """Returns the directories of the comparisons in `out`: itself, or one for each task."""
    inside = sorted(path.parent for path in out.glob("*/records"))
    return inside if inside and not (out / "records").exists() else [out]


def _show(directories: list[Path], cells: list[Cell]) -> None:
    from regrow.cli.comparison_view import show

    for directory in directories:
        if len(directories) > 1:
            typer.echo(f"\n{directory.name}")
        show(directory, cells)


def _announce(loaded: Loaded, plans: list[ComparisonPlan], cells: list[Cell], bar: Bar) -> None:
    """Prints how many cells and batches are left to run for all tasks, and about how long they take."""
    from regrow.evaluation.comparison_plan import batches_to_run, estimate

    left = [batches_to_run(plan, cells) for plan in plans]
    total = sum(one.total for one in left)
    if total:
        bar.begin("timing a short batch", 1)
        about = duration(sum(estimate(loaded, plan, one) for plan, one in zip(plans, left, strict=True)))
        each = f" for each of {len(plans)} tasks" if len(plans) > 1 else ""
        limits = " or ".join(map(str, dict.fromkeys(plan.max_new_tokens for plan in plans)))
        say(
            f"{count(len(cells), 'cell')}{each}, {batches(total)} to run: about {about} if every answer runs "
            f"to its limit of {limits} tokens, calibrations not counted"
        )


@final
class _CompareProgress:
    """Shows the batch that has just ended, or how far a calibration is, and the cell that it belongs to.

    `task` is the name of the task, or empty if there is only one.
    """

    def __init__(self, bar: Bar, task: str) -> None:
        self._bar, self._task, self.cell, self._first = bar, task, "", True

    def begin(self, stage: str) -> None:
        self._first = True
        self._bar.begin(f"{self._task}: {stage}" if self._task else stage, 1)

    def batch(self, done: float, total: float) -> None:
        if self._first:
            self._bar.skip((done - 1) / total)
            self._first = False
        self._bar.ended(done / total, f"{done:g} of {total:g} ({self.cell})")

    def part(self, done: float, total: float) -> None:
        self._bar.show(done / total, f"{done:g} of {total:g} ({self.cell})")


def _run(runner: Comparison, cells: list[Cell], progress: _CompareProgress, out: Path) -> None:
    for number, cell in enumerate(cells, 1):
        progress.cell = f"cell {number} of {len(cells)}"
        try:
            runner.run(cell)
        except KeyboardInterrupt:
            fail(
                f"interrupted: complete results are kept in {out}; the same command continues from there",
                INTERRUPTED,
            )


def _sparsities(given: list[str] | None) -> list[str]:
    """Returns the sparsities as the user wrote them. Raises UsageError if one is 0 or not in [0, 1)."""
    from regrow.selection.budget import parse_sparsity

    found = options.several(given)
    for text in found:
        if not parse_sparsity(text):
            raise UsageError("--sparsity 0 is the dense model, which every comparison includes; leave it out")
    return found
