"""Prints the tables of the real model in docs/results.md, from the records in results/real_model.

Usage: `python scripts/real_model_table.py [DIR]`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from regrow.analysis.comparison_table import ComparisonRow, cells, row
from regrow.evaluation.grading import grade, together
from regrow.evaluation.labels import labels
from regrow.format import NONE, percent
from regrow.records import Graded
from regrow.table import Column, Table, markdown

RESULTS = Path(__file__).parents[1] / "results" / "real_model"
HEAD = (
    "method", "batch", "target", "actual sparsity", "FFN bytes a step", "strict", "95 % interval", "lenient",
    "against dense", "median tokens", "at length cap",
)  # fmt: skip


def tables(directory: Path) -> dict[str, str]:
    """Returns a Markdown table for each task of which the directory holds records."""
    return {
        folder.name: _table([grade(*shards) for shards in together(sorted(folder.glob("*.jsonl")))])
        for folder in sorted(directory.iterdir(), reverse=True)
        if list(folder.glob("*.jsonl"))
    }


def _table(runs: list[Graded]) -> str:
    runs = sorted(runs, key=lambda run: (run.config.batch_size, -_target(run), run.config.method))
    names = labels([run.config for run in runs])
    dense = {run.config.batch_size: run for run in runs if run.config.method == "dense"}
    rows = [
        row(
            name.partition(" (")[0],
            run.config.batch_size,
            _target(run),
            None,
            run,
            dense.get(run.config.batch_size),
        )
        for name, run in zip(names, runs, strict=True)
    ]
    rows.sort(key=lambda found: (-found.batch_size, found.target, -_right(found)))
    whole = {found.batch_size: _bytes(found) for found in rows if found.label == "dense"}
    lines = [_cells(found, whole.get(found.batch_size)) for found in rows]
    return markdown(Table.of([Column(name) for name in HEAD], lines))


def _cells(found: ComparisonRow, dense_bytes: float | None) -> list[str]:
    label, batch, target, sparsity, _, _, _, strict, interval, against, median, cap = cells(found)
    assert found.summary
    lenient = percent(found.summary.paper.value)
    share = percent(_bytes(found) / dense_bytes, 0) if dense_bytes else NONE
    return [label, batch, target, sparsity, share, strict, interval, lenient, against, median, cap]


def _target(run: Graded) -> float:
    return float(run.config.params.get("sparsity", 0))


def _right(found: ComparisonRow) -> float:
    assert found.summary
    return found.summary.problems.value or 0.0


def _bytes(found: ComparisonRow) -> float:
    assert found.summary
    return found.summary.counters.ffn_bytes_per_step or 0.0


if __name__ == "__main__":
    for task, text in tables(Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS).items():
        print(f"{task}\n\n{text}\n")
