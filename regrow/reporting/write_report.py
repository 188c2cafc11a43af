"""Writes a report into a directory."""

from __future__ import annotations

from pathlib import Path

from regrow.reporting.document import document, figures
from regrow.reporting.page import page
from regrow.reporting.report_content import ReportContent
from regrow.whole_file import write_whole


def write_report(content: ReportContent, directory: Path) -> list[Path]:
    """Writes report.html, report.md and the charts, and returns their paths.

    Raises RegrowError if a file cannot be written, UsageError if something else is in its place.
    """
    files = {
        "report.html": page(content).encode(),
        "report.md": document(content).encode(),
        **dict(figures(content)),
    }
    for name, written in files.items():
        write_whole(directory / name, written)
    return [directory / name for name in files]
