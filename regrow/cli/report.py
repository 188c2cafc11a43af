"""`regrow report`: puts every result of some directories on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from regrow.cli.options import Json
from regrow.cli.terminal import say
from regrow.errors import UsageError
from regrow.format import count


def report(
    given: Annotated[
        list[Path],
        typer.Argument(
            metavar="DIR...",
            help="Directories with results of `regrow evaluate`, `regrow compare` and `regrow bench`, at any "
            "depth.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="REPORT_DIR",
            rich_help_panel="Output",
            help="Directory for report.html, report.md and its figures.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Grade and chart everything in the directories, on one page that needs no network.

    The report has accuracies, speeds and what they cost, by method, sparsity and batch size, and the paper's
    numbers beside them. It says what is missing.

    Example: regrow report results/ --out report/
    """
    if out is None and not json:
        raise UsageError("name the directory of the report with --out, or print its numbers with --json")
    if out is not None:
        _refuse_place(out)
    from regrow.reporting.report_content import ReportContent
    from regrow.reporting.write_report import write_report

    content = ReportContent.of(given)
    for _, why in content.left_out:
        say(f"left out: {why}")
    if out is not None:
        written = write_report(content, out)
        if not json:
            typer.echo(f"{written[0]}; beside it report.md and {count(len(written) - 2, 'figure')}")
    if json:
        typer.echo(content.to_json(), nl=False)


def _refuse_place(out: Path) -> None:
    """Raises UsageError if no files can be written into the directory."""
    from regrow.whole_file import refuse_place

    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is not a directory; choose another --out")
    refuse_place(out / "report.html")
