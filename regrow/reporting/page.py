"""A report as one HTML page that needs nothing else: no scripts, no other files, no network."""

from __future__ import annotations

from html import escape
from typing import Final

from regrow import table
from regrow.analysis.chart import Chart
from regrow.format import printable
from regrow.reporting.report_content import ReportContent
from regrow.reporting.section import Section
from regrow.table import Table

_STYLE: Final = """
:root { color-scheme: light dark; --page: #ffffff; --text: #1f2328; --soft: #59636e; --line: #d1d9e0;
  --band: #f6f8fa; --link: #0a5cc2; }
@media (prefers-color-scheme: dark) { :root { --page: #14171a; --text: #e6edf3; --soft: #9aa4af;
  --line: #343b43; --band: #1c2126; --link: #79b4ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1.5rem 1rem 4rem; background: var(--page);
  color: var(--text); font: 16px/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.3rem; margin: 3rem 0 .25rem; padding-top: .75rem; border-top: 1px solid var(--line); }
p { max-width: 46rem; margin: .4rem 0; }
a { color: var(--link); }
nav ul { list-style: none; margin: 1rem 0; padding: 0; display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; }
.soft, .note, figcaption { color: var(--soft); }
.note { font-size: .85rem; }
figure { margin: 1.25rem 0; }
figcaption { font-size: .9rem; margin-bottom: .4rem; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; max-width: max-content; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .7rem; text-align: left; vertical-align: top; white-space: nowrap; }
.right { text-align: right; }
thead th { background: var(--band); font-weight: 600; white-space: normal; vertical-align: bottom; }
tbody th { font-weight: 500; position: sticky; left: 0; background: var(--page); }
@media (max-width: 40rem) { th, td { padding: .3rem .5rem; } .scroll { max-width: 100%; } }
tbody tr { border-top: 1px solid var(--line); }
td.right:has(br)::first-line { font-weight: 600; }
summary { cursor: pointer; }
.wrapping td { white-space: normal; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr));
  gap: 0 1.5rem; }
.charts figure { min-width: 0; max-width: 38rem; }
svg.chart { display: block; width: 100%; height: auto; }
"""


def page(content: ReportContent) -> str:
    """Returns the page."""
    links = "".join(
        f'<li><a href="#{section.name}">{escape(section.title)}</a></li>'
        for section in content.sections
        if section.parts
    )
    body = "\n".join(_section(section, content) for section in content.sections)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>Regrow report</title><style>{_STYLE}</style></head>\n<body>'
        f"<header><h1>Regrow report</h1></header>\n"
        f'<div class="wrapping">{table.html(content.contents)}</div>\n'
        f"<nav><ul>{links}</ul></nav>\n<main>\n{body}\n</main></body></html>\n"
    )


def _section(section: Section, content: ReportContent) -> str:
    head = f'<section id="{section.name}"><h2>{escape(section.title)}</h2>'
    if not section.parts:
        return f'{head}<p class="soft">{escape(section.absent)}</p></section>'
    drawn, charts = [], list[str]()
    for part in (*section.parts, None):
        if isinstance(part, Chart):
            charts.append(_chart(part, content))
            continue
        if charts:
            drawn.append(f'<div class="charts">{"".join(charts)}</div>')
            charts = []
        if isinstance(part, Table):
            drawn.append(table.html(part))
    return f"{head}<p>{escape(section.about)}</p>{''.join(drawn)}</section>"


def _chart(chart: Chart, content: ReportContent) -> str:
    note = f'<p class="note">{escape(printable(chart.note))}</p>' if chart.note else ""
    caption = f"<figcaption>{escape(printable(chart.title))}</figcaption>"
    return f"<figure>{caption}{content.drawings[chart.name]}{note}</figure>"
