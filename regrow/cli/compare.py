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
from regrow.errors import UsageError
from regrow.format import duration

if TYPE_CHECKING:
    from regrow.evaluation.comparison import Comparison
    from regrow.evaluation.grid import Cell

_GRID, _OUTPUT = "Grid", "Output"


def compare(
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", rich_help_panel=_OUTPUT, help="Directory; what is there is not run again."
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
            help="Batch 4 on a few prompts, in minutes; less of it for large models: a look, no result.",
        ),
    ] = False,
    batch_size: Annotated[
        list[int] | None,
        typer.Option(min=1, rich_help_panel=_GRID, help="May be repeated; by default 4, 16, 8 and 1."),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LABEL",
            rich_help_panel=_GRID,
            help='A method as the table labels it, such as "BAP, T_init 16"; may be repeated.',
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, rich_help_panel=_GRID, help="Prompts to answer; by default 200.")
    ] = None,
    traced: Annotated[
        int | None,
        typer.Option(min=1, rich_help_panel=_GRID, help="Prompts to compare by token; by default 48."),
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
            help="Run every N-th cell from the I-th on: one of N processes.",
        ),
    ] = "1/1",
    table: Annotated[
        bool, typer.Option("--table", rich_help_panel=_OUTPUT, help="Run nothing, tabulate what is there.")
    ] = False,
) -> None:
    """Run every method on the same prompts, at several batch sizes and sparsities, and tabulate what comes out.

    For each: how far its next-token distributions are from the dense ones along dense answers, then answers of its own, graded. Writes
    table.md, table.json and figure.svg of all that is in the directory, beside the records.
    """
    from regrow.evaluation import grid, scale

    mine, of = _part(part)
    sizes = tuple(batch_size or ((grid.SWEPT,) if quick else grid.BATCH_SIZES))
    cells = grid.grid(sizes, others=not quick, only=only or ())
    if not table:
        found = chosen(task, model)
        found.load(max(limit or 1, traced or 1))
        loaded = load(model, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
        from regrow.evaluation import comparison

        size = scale.quick(loaded.model.num_parameters()) if quick else scale.FULL
        if size.labels and not only:
            cells = [cell for cell in cells if cell.label in size.labels]
        chat = bool(loaded.tokenizer.chat_template)
        answers = limit or size.prompts, traced or size.traced, max_new_tokens or size.max_new_tokens
        plan = comparison.ComparisonPlan(out, found, *answers, chat, text, size.sequences, size.length)
        own = comparison.parts(cells, mine, of)
        with Bar() as bar:
            told = _CompareProgress(bar, len(own), comparison.batches_to_run(plan, own))
            runner = comparison.Comparison(loaded, plan, told)
            runner.check(own)
            _run(runner, own, told, out)
    if of > 1 and not table:  # others may still be running
        typer.echo(
            f"part {part} is complete; when all are, `regrow compare --out {out} --table` tabulates them"
        )
        return
    from regrow.cli.comparison_view import show

    show(out, grid.grid((*grid.BATCH_SIZES, *sizes)), cells)


@final
class _CompareProgress:
    def __init__(self, bar: Bar, cells: int, batches: int) -> None:
        """`batches` are to be run for so many cells."""
        self._bar, self._what, self.cells = bar, "", ""
        self._planned, self._batches = cells, batches

    def __call__(self, what: str, done: float, of: float) -> None:
        if what != self._what:
            self._what = what
            self._bar.begin(what, 1)
        self._bar.show(done / of, f"{done:g} of {of:g} ({self.cells})")

    def batch(self, seconds: float) -> None:
        """Estimates the whole from its first batch, once."""
        if self._batches:
            about = duration(seconds * self._batches)
            with self._bar.aside():
                typer.echo(
                    f"{self._planned} cells: about {about} if all batches are like the first, calibrations not counted",
                    err=True,
                )
        self._batches = 0


def _run(runner: Comparison, cells: list[Cell], told: _CompareProgress, out: Path) -> None:
    for number, cell in enumerate(cells, 1):
        told.cells = f"cell {number} of {len(cells)}"
        try:
            runner.run(cell)
        except KeyboardInterrupt:
            fail(
                f"interrupted: what is complete is kept in {out}; the same command goes on from there",
                INTERRUPTED,
            )


def _part(text: str) -> tuple[int, int]:
    part, _, of = text.partition("/")
    if not (part.isdecimal() and of.isdecimal() and 1 <= int(part) <= int(of)):
        raise UsageError(f"--part takes I/N with I from 1 to N, such as 1/2, not {text!r}")
    return int(part), int(of)
