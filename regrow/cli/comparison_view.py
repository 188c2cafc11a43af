"""The tables that `regrow compare` prints, made from the files in its directory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from regrow.analysis import comparison_table
from regrow.cli.terminal_table import terminal_table
from regrow.evaluation import grid, results
from regrow.evaluation.grid import Cell
from regrow.format import percent
from regrow.method.presets import PRESETS


def show(directory: Path, asked: Sequence[Cell]) -> None:
    """Writes and prints tables of everything in the directory, and writes the figures.

    The last line says how many of the `asked` cells are missing.
    Raises RegrowError if nothing is there or if the files cannot be written.
    """
    rows = results.rows(directory, _all(directory, asked))
    results.write(directory, rows)
    console = Console(highlight=False)
    for target, title in _targets(rows):
        sizes = {row.batch_size for row in rows if row.target == target}
        # Dense is part of every table.
        shown = [row for row in rows if row.target == target or (not row.target and row.batch_size in sizes)]
        table = comparison_table.compared(shown, title).narrowed()
        console.print(terminal_table(table))
    for note in (note for row in rows for note in row.notes):
        console.print(note, style="yellow")
    there = {(row.label, row.batch_size, row.target) for row in rows if row.summary}
    absent = sum((cell.label, cell.batch_size, float(cell.method.target)) not in there for cell in asked)
    missing = f"; {absent} of {len(asked)} cells have not been run" if absent else ""
    made = {str(sorted(versions.items())) for row in rows if row.summary for versions in row.summary.versions}
    mixed = (
        f"; made with {len(made)} different sets of library versions (see table.json)"
        if len(made) > 1
        else ""
    )
    console.print(
        f"in {directory}: table.md, table.json, figure.svg, tradeoff.svg{missing}{mixed}", style="dim"
    )


def _all(directory: Path, asked: Sequence[Cell]) -> list[Cell]:
    """Returns the `asked` cells, and those of the batch sizes and sparsities that file names tell of."""
    sizes, sparsities = results.sizes_and_sparsities(directory)
    known = grid.grid([*grid.BATCH_SIZES, *sizes])
    own: list[Cell] = []
    for methods in ((), tuple(PRESETS)) if sizes and sparsities else ():
        own += grid.grid(sizes, sparsities, methods=methods)
    return list({cell.name: cell for cell in (*known, *own, *asked)}.values())


def _targets(rows: Sequence[comparison_table.ComparisonRow]) -> list[tuple[float, str]]:
    """Returns the target sparsity and the title of each table."""
    found = list(dict.fromkeys(row.target for row in rows))
    return [(target, f"target sparsity {percent(target)}") for target in found if target or len(found) == 1]
