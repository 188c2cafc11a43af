"""`regrow table`: grades record files and shows the results as tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from regrow.cli.options import Json, RecordFiles
from regrow.cli.summaries import print_tables
from regrow.cli.terminal import say
from regrow.errors import UsageError


def table(
    files: RecordFiles,
    markdown: Annotated[
        bool,
        typer.Option("--markdown", rich_help_panel="Output", help="Print Markdown tables with all columns."),
    ] = False,
    json: Json = False,
) -> None:
    """Grade record files and show accuracy, actual sparsity and speed.

    `regrow compare --table --out DIR` shows a comparison with its divergence from dense.

    Example: regrow table dense.jsonl bap.jsonl
    """
    if markdown and json:
        raise UsageError("--markdown and --json exclude each other; choose one")
    show([path for given in files for path in record_files(given)], markdown=markdown, json=json)


def record_files(given: Path) -> list[Path]:
    """Returns the record files in a directory, at any depth and dense ones first, or the file itself.

    Files in a directory that are empty, because a run has just begun, are left out with a note. Raises
    UsageError if a directory holds no others.
    """
    if not given.is_dir():
        return [given]
    there = sorted(given.rglob("*.jsonl"), key=lambda path: (not path.name.startswith("dense"), path))
    found = [path for path in there if path.stat().st_size]
    for path in there:
        if path not in found:
            say(f"note: {path} holds no batch yet and is left out")
    if not found:
        raise UsageError(
            f"{given} holds no record files (*.jsonl); name files that `regrow evaluate --out` wrote"
        )
    return found


def show(files: Sequence[Path], *, markdown: bool = False, json: bool = False) -> None:
    """Prints the results of record files: tables for a terminal, Markdown or JSON. Shards count as one run.

    Raises UsageError or RegrowError if a file cannot be read or graded.
    """
    from regrow.analysis import summary, tables
    from regrow.evaluation.grading import grade, together

    summaries = [summary.summarize(grade(*shards)) for shards in together(files)]
    if json:
        typer.echo(tables.to_json(summaries), nl=False)
    elif markdown:
        typer.echo(tables.markdown(summaries), nl=False)
    else:
        print_tables(Console(highlight=False), summaries)
