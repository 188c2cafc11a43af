"""`regrow table`: grades record files and tabulates them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from regrow.cli.options import Json
from regrow.cli.summaries import print_tables
from regrow.errors import UsageError


def table(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE|DIR...",
            help="Record files of `regrow evaluate`, or directories of them, such as one of `regrow compare`.",
            show_default=False,
        ),
    ],
    markdown: Annotated[
        bool, typer.Option("--markdown", rich_help_panel="Output", help="Markdown tables with every column.")
    ] = False,
    json: Json = False,
) -> None:
    """Grade record files and tabulate accuracy, actual sparsity and speed."""
    if markdown and json:
        raise UsageError("--markdown and --json exclude each other; choose one")
    show([path for given in files for path in _records(given)], markdown=markdown, json=json)


def _records(given: Path) -> list[Path]:
    """Returns the record files in a directory, at any depth, or the file itself."""
    if not given.is_dir():
        return [given]
    found = sorted(given.rglob("*.jsonl"))
    if not found:
        raise UsageError(
            f"{given} holds no record files (*.jsonl); name a directory of `regrow evaluate --out`"
        )
    return found


def show(files: Sequence[Path], *, markdown: bool = False, json: bool = False) -> None:
    """On standard output. Raises UsageError or RegrowError for a file that cannot be read or graded."""
    from regrow.analysis import summary, tables
    from regrow.evaluation.grading import grade

    summaries = [summary.summarize(grade(path)) for path in files]
    if json:
        typer.echo(tables.to_json(summaries), nl=False)
    elif markdown:
        typer.echo(tables.markdown(summaries), nl=False)
    else:
        print_tables(Console(highlight=False), summaries)
