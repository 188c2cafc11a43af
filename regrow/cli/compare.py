"""`regrow compare`: every method under the same prompts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, final

import typer

from regrow.cli import options
from regrow.cli.bar import Bar
from regrow.cli.group import INTERRUPTED, fail
from regrow.cli.load_model import load
from regrow.cli.task import chosen
from regrow.cli.terminal import say
from regrow.errors import UsageError
from regrow.format import duration

if TYPE_CHECKING:
    from regrow.evaluation.comparison import Comparison, ComparisonPlan
    from regrow.evaluation.grid import Cell

_GRID, _OUTPUT = "Grid", "Output"


def compare(
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", rich_help_panel=_OUTPUT, help="Directory for the results; complete cells are kept."
        ),
    ],
    model: options.ModelName = None,
    task: Annotated[
        str | None,
        typer.Option(
            "--task",
            "-t",
            rich_help_panel=_GRID,
            help="Problems to answer: {tasks}; for the bundled model its own.",
        ),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            rich_help_panel=_GRID,
            help="A look in minutes, no result: batch 4, a few prompts, short answers of large models.",
        ),
    ] = False,
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            "-m",
            metavar="NAME,...",
            rich_help_panel=_GRID,
            help="Only these methods, with their defaults, beside dense: {methods}. By default all, with variants.",
        ),
    ] = None,
    sparsity: Annotated[
        list[str] | None,
        typer.Option(
            "--sparsity",
            "-s",
            metavar="S,...",
            rich_help_panel=_GRID,
            help="Target sparsities, such as 0.3,0.5. By default 0.5, at batch 4 also 0.3 and 0.7.",
        ),
    ] = None,
    batch_size: Annotated[
        list[str] | None,
        typer.Option(metavar="N,...", rich_help_panel=_GRID, help="By default 4,16,8,1."),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LABEL",
            rich_help_panel=_GRID,
            help='A row as the table labels it, such as "BAP, T_init 16"; may be repeated.',
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, rich_help_panel=_GRID, help="Prompts to answer; by default 200.")
    ] = None,
    traced: Annotated[
        int | None,
        typer.Option(
            min=1,
            rich_help_panel=_GRID,
            help="Prompts whose answers are compared token by token; by default 48.",
        ),
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=2, rich_help_panel=_GRID, help="Limit of an answer; by default 600.")
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", rich_help_panel=_GRID, help="Calibration text, as for `regrow calibrate`."
        ),
    ] = None,
    dtype: options.DTypeName = "auto",
    device: options.DeviceName = "auto",
    trust_remote_code: options.TrustRemoteCode = False,
    part: Annotated[
        str,
        typer.Option(
            metavar="I/N",
            rich_help_panel=_OUTPUT,
            help="Run every N-th cell from the I-th on: the share of one of N processes.",
        ),
    ] = "1/1",
    table: Annotated[
        bool, typer.Option("--table", rich_help_panel=_OUTPUT, help="Run nothing, tabulate what is there.")
    ] = False,
) -> None:
    """Run every method on the same prompts, at several batch sizes and sparsities, and tabulate the results.

    A cell of the grid is one method at one batch size and sparsity. For each, the command measures how far
    its next-token distributions are from the dense ones along dense answers, then grades answers of its own.
    It writes table.md, table.json, figure.svg and tradeoff.svg, beside the records.
    """
    if method and only:
        raise UsageError("--method and --only exclude each other; choose one")
    names, sparsities = options.several(method), _sparsities(sparsity)
    sizes = [options.batch_size(size) for size in options.several(batch_size)]
    mine, count = _part(part)
    from regrow.evaluation import grid, scale

    known = tuple(sizes or ((grid.SWEPT,) if quick else grid.BATCH_SIZES))
    cells = grid.grid(known, sparsities, others=not quick, methods=names, only=only or ())
    if not table:
        found = chosen(task, model)
        found.load(max(limit or 1, traced or 1))
        loaded = load(model, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
        from regrow.evaluation import comparison

        size = scale.quick(loaded.model.num_parameters()) if quick else scale.FULL
        if size.labels and not only and not names:
            cells = [cell for cell in cells if cell.label in size.labels]
        chat = bool(loaded.tokenizer.chat_template)
        answers = limit or size.prompts, traced or size.traced, max_new_tokens or size.max_new_tokens
        plan = comparison.ComparisonPlan(out, found, *answers, chat, text, size.sequences, size.length)
        own = comparison.parts(cells, mine, count)
        with Bar() as bar:
            progress = _CompareProgress(bar)
            runner = comparison.Comparison(loaded, plan, progress)
            runner.check(own)
            _announce(runner, plan, own)
            _run(runner, own, progress, out)
    if count > 1 and not table:  # others may still be running
        typer.echo(
            f"part {part} is complete; when all are, `regrow compare --out {out} --table` tabulates them"
        )
        return
    from regrow.cli.comparison_view import show

    show(out, cells)


def _announce(runner: Comparison, plan: ComparisonPlan, cells: list[Cell]) -> None:
    """Says how many cells and batches are left to run, and about how long they take."""
    from regrow.evaluation.comparison import batches_to_run

    batches = batches_to_run(plan, cells).total()
    if batches:
        say(
            f"{len(cells)} cells, {batches} batches to run: about {duration(runner.estimate(cells))} if every "
            f"answer runs to its limit of {plan.max_new_tokens} tokens, calibrations not counted"
        )


@final
class _CompareProgress:
    """Shows the batch that has just ended, and which cell it belongs to."""

    def __init__(self, bar: Bar) -> None:
        self._bar, self._what, self.cell = bar, "", ""

    def __call__(self, what: str, done: float, total: float) -> None:
        if what != self._what:
            self._what = what
            self._bar.begin(what, 1)
        self._bar.ended(done / total, f"{done:g} of {total:g} ({self.cell})")


def _run(runner: Comparison, cells: list[Cell], progress: _CompareProgress, out: Path) -> None:
    for number, cell in enumerate(cells, 1):
        progress.cell = f"cell {number} of {len(cells)}"
        try:
            runner.run(cell)
        except KeyboardInterrupt:
            fail(
                f"interrupted: what is complete is kept in {out}; the same command goes on from there",
                INTERRUPTED,
            )


def _sparsities(given: list[str] | None) -> list[str]:
    """Returns the sparsities as they were written. Raises UsageError if one is no share, or 0."""
    from regrow.selection.budget import parse_sparsity

    found = options.several(given)
    for text in found:
        if not parse_sparsity(text):
            raise UsageError("--sparsity 0 prunes nothing; dense is part of every comparison, leave it out")
    return found


def _part(text: str) -> tuple[int, int]:
    part, _, count = text.partition("/")
    if not (part.isdecimal() and count.isdecimal() and 1 <= int(part) <= int(count)):
        raise UsageError(f"--part takes I/N with I from 1 to N, such as 1/2, not {text!r}")
    return int(part), int(count)
