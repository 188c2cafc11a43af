"""A report as a Markdown document, with its charts as SVG files beside it."""

from __future__ import annotations

from collections.abc import Iterator

from regrow import table
from regrow.analysis.chart import Chart, as_file
from regrow.format import printable
from regrow.reporting.report_content import ReportContent
from regrow.reporting.section import Section


def document(content: ReportContent) -> str:
    """Returns the Markdown document."""
    parts = ["# Regrow report", table.markdown(content.contents)]
    for section in content.sections:
        parts += _section(section)
    return printable("\n\n".join(parts)) + "\n"


def figures(content: ReportContent) -> Iterator[tuple[str, bytes]]:
    """Yields the name and the content of every chart's file."""
    for name, svg in content.drawings.items():
        yield f"{name}.svg", as_file(svg)


def _section(section: Section) -> Iterator[str]:
    yield f"## {section.title}"
    yield section.about if section.parts else section.absent
    for part in section.parts:
        if isinstance(part, Chart):
            yield f"![{part.title}: {part.y_label} against {part.x_label}]({part.name}.svg)"
            if part.note:
                yield part.note
        else:
            yield table.markdown(part)
