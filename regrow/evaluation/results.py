"""The files in the directory of a comparison, and the tables made from them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from io import BytesIO
from math import isfinite
from pathlib import Path
from typing import Any, Final

from regrow.analysis import comparison_table, plots
from regrow.errors import RegrowError
from regrow.evaluation.grading import grade
from regrow.evaluation.grid import SPARSITY, Cell
from regrow.records import Graded
from regrow.whole_file import write_whole

# Numbers that a divergence file must hold.
_NUMBERS: Final = (
    "tokens",
    "kl",
    "agreeing",
    "weights_kept",
    "weights_dense",
    "mean_kl",
    "agreement",
)  # of a divergence
_FILE: Final = re.compile(r"(?:-s([\d.]+))?-b(\d+)$")  # the end of a cell's name


def records_file(directory: Path, cell: Cell) -> Path:
    return directory / "records" / f"{cell.name}.jsonl"


def divergence_file(directory: Path, cell: Cell) -> Path:
    return directory / "divergence" / f"{cell.name}.json"


def read_divergence(path: Path) -> dict[str, Any]:
    """Reads a divergence file. Raises RegrowError if it is damaged."""
    try:
        value = json.loads(path.read_bytes())
        if not isinstance(value, dict) or not isinstance(value.get("settings"), dict):
            raise ValueError("no settings")
        lacking = [name for name in _NUMBERS if not _is_number(value.get(name))]
        if lacking:
            raise ValueError(f"no number for {', '.join(lacking)}")
        if not value["weights_dense"]:
            raise ValueError("no weights")
    except (OSError, ValueError, RecursionError) as error:
        raise RegrowError(f"{path} is damaged ({error}); remove it, and run again") from error
    return value


def write_divergence(path: Path, value: dict[str, Any]) -> None:
    """Writes a divergence file. Raises RegrowError if it cannot be written."""
    write_whole(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def rows(directory: Path, cells: Sequence[Cell]) -> list[comparison_table.ComparisonRow]:
    """Returns a row for each cell that has been run, at least in part.

    Raises RegrowError if no cell has been run, or if a file is damaged.
    """
    graded = {cell.name: _graded(records_file(directory, cell)) for cell in cells}
    dense = {cell.batch_size: graded[cell.name] for cell in cells if not cell.method.target}
    found = []
    for cell in sorted(cells, key=_place):
        path = divergence_file(directory, cell)
        measured = read_divergence(path) if path.exists() else None
        if measured is not None or graded[cell.name] is not None:
            target = float(cell.method.target)
            found.append(
                comparison_table.row(
                    cell.label,
                    cell.batch_size,
                    target,
                    measured,
                    graded[cell.name],
                    dense.get(cell.batch_size),
                )
            )
    if not found:
        raise RegrowError(f"{directory} holds no results of these cells; run the comparison first")
    return found


def write(directory: Path, found: Sequence[comparison_table.ComparisonRow]) -> None:
    """Writes table.md, table.json, figure.svg and tradeoff.svg. Raises RegrowError if that fails."""
    write_whole(directory / "table.md", comparison_table.markdown(found).encode())
    write_whole(directory / "table.json", comparison_table.to_json(found).encode())
    for name, draw in (("figure.svg", plots.figure), ("tradeoff.svg", plots.tradeoff)):
        draw(found, drawn := BytesIO(), _shown_sparsity(found))
        write_whole(directory / name, drawn.getvalue())


def sizes_and_sparsities(directory: Path) -> tuple[list[int], list[str]]:
    """Returns the batch sizes and the target sparsities that files in the directory are named for."""
    names = [
        _FILE.search(path.stem) for part in ("records", "divergence") for path in (directory / part).glob("*")
    ]
    found = [name for name in names if name]
    return sorted({int(name[2]) for name in found}), sorted({name[1] for name in found if name[1]})


def _shown_sparsity(found: Sequence[comparison_table.ComparisonRow]) -> float:
    """Returns the target sparsity that figures show: SPARSITY, or else the lowest that was run."""
    targets = sorted({row.target for row in found if row.target})
    return float(SPARSITY) if not targets or float(SPARSITY) in targets else targets[0]


def _place(cell: Cell) -> tuple[bool, float, int]:
    """Sort key of a cell in the table: dense and the common sparsity come first."""
    target = float(cell.method.target)
    return target not in (0.0, float(SPARSITY)), target, cell.batch_size


def _graded(path: Path) -> Graded | None:
    return grade(path) if path.exists() and path.stat().st_size else None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value) and value >= 0
