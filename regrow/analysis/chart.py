"""Charts as values, and how they are drawn: as SVG that fits a light and a dark page."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from io import StringIO
from typing import Any, Final, final

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Each colour has a contrast of 3 or more to white and to a dark page.
COLORS: Final = (
    "#7d8590",
    "#3a82cc",
    "#cf6420",
    "#2f9a57",
    "#d64550",
    "#9670d8",
    "#a5713d",
    "#cc55a0",
    "#8a8a1f",
    "#1f94a3",
)
MARKERS: Final = "osD^v<>pP*XhH8d"
_DASHES: Final = ("-", "--", ":")

_WIDTH: Final = 4.7  # inches; a phone shows this at four fifths, so that text of 9 points can be read
_HEIGHT: Final = 3.0  # inches, without the legend
_LEGEND_ROW: Final = 0.2  # inches
_LEGEND_COLUMNS: Final = {8: 4, 20: 3, 10**9: 2}  # longest label in characters: columns
_DODGE: Final = 0.05  # categories, by which lines are moved apart so that their error bars can be seen
_INK: Final = "#010203"  # stands for the colour of the page's text while a chart is drawn
_GRID: Final = "#040506"  # stands for the same colour, nearly transparent
_SMALLEST, _LARGEST = 3.5, 7.5  # points, of markers
_BARS: Final[dict[str, Any]] = {
    "marker": "",
    "linestyle": "",
    "elinewidth": 0.9,
    "capsize": 1.8,
    "alpha": 0.75,
}
_FONT: Final = "system-ui, sans-serif"
_LOOKS: Final[dict[Any, Any]] = {
    "svg.hashsalt": "regrow",
    "svg.fonttype": "none",
    "font.size": 9,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "grid.color": _GRID,
}


def style(number: int) -> dict[str, Any]:
    """Returns how the method of this number is drawn, in every chart and legend."""
    return {
        "color": COLORS[number % len(COLORS)],
        "linestyle": _DASHES[number // len(COLORS) % len(_DASHES)],
        "marker": MARKERS[number % len(MARKERS)],
    }


@final
@dataclass(frozen=True)
class Point:
    """A value, and the ends of its intervals along y and x, if it has any."""

    x: float
    y: float
    across: tuple[float, float] | None = None  # the interval along y
    along: tuple[float, float] | None = None  # the interval along x
    size: float = 0.3  # of the marker, from 0 (small) to 1 (large)


@final
@dataclass(frozen=True)
class Line:
    label: str
    points: tuple[Point, ...]


@final
@dataclass(frozen=True)
class Chart:
    """A chart with one line for each method. With `categories`, x is the number of one of them."""

    name: str  # for files and ids: letters, digits and hyphens
    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    categories: tuple[str, ...] = ()
    y_range: tuple[float, float] | None = None
    x_range: tuple[float, float] | None = None
    level: float | None = None  # a horizontal guide
    diagonal: bool = False  # a guide where x equals y
    note: str = ""  # a sentence that belongs below the chart


def draw(chart: Chart, styles: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the chart as an `svg` element, for an HTML page or a file; equal charts give equal texts.

    `styles` has the style of every label. Text and axes take the colour of the surrounding text, the
    background is transparent, and all ids begin with the chart's name.
    """
    labels = [line.label for line in chart.lines]
    longest = max(map(len, labels), default=0)
    columns = next(count for most, count in _LEGEND_COLUMNS.items() if longest <= most)
    rows = -(-len(labels) // columns)
    with rc_context(_LOOKS):
        page = Figure(figsize=(_WIDTH, _HEIGHT + _LEGEND_ROW * rows), layout="constrained")
        axis = page.subplots()
        _axes(axis, chart)
        for number, line in enumerate(chart.lines):
            moved = _DODGE * (number - (len(chart.lines) - 1) / 2) if chart.categories else 0.0
            _line(axis, line, styles[line.label], moved)
        handles = [axis.plot([], [], **styles[label], label=label)[0] for label in labels]
        page.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=8, frameon=False)
        written = StringIO()
        page.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    return _element(written.getvalue(), chart)


def _axes(axis: Axes, chart: Chart) -> None:
    axis.set(xlabel=chart.x_label, ylabel=chart.y_label)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    axis.grid(axis="both", linewidth=0.6)
    axis.set_axisbelow(True)
    if chart.categories:
        axis.set_xticks(range(len(chart.categories)), chart.categories)
        axis.set_xlim(-0.5, len(chart.categories) - 0.5)
    if chart.y_range:
        axis.set_ylim(*chart.y_range)
    if chart.x_range:
        axis.set_xlim(*chart.x_range)
    if chart.level is not None:
        axis.axhline(chart.level, color=_INK, linewidth=0.7, linestyle=(0, (4, 3)), zorder=1)
    if chart.diagonal:
        axis.axline((0, 0), slope=1, color=_INK, linewidth=0.7, linestyle=(0, (4, 3)), zorder=1)


def _line(axis: Axes, line: Line, drawn: Mapping[str, Any], moved: float) -> None:
    xs, ys = [point.x + moved for point in line.points], [point.y for point in line.points]
    axis.plot(xs, ys, **{**drawn, "marker": ""}, linewidth=1.1)
    for x, point in zip(xs, line.points, strict=True):
        size = _SMALLEST + (_LARGEST - _SMALLEST) * point.size
        axis.plot([x], [point.y], **{**drawn, "linestyle": ""}, markersize=size)
        for ends, at in ((point.across, "yerr"), (point.along, "xerr")):
            if ends:
                middle = point.y if at == "yerr" else point.x
                bars: dict[str, Any] = {at: [[middle - ends[0]], [ends[1] - middle]]}
                axis.errorbar([x], [point.y], **bars, **{**drawn, **_BARS})


def _element(svg: str, chart: Chart) -> str:
    """Returns the `svg` element of a file that matplotlib wrote, ready to stand in a page beside others."""
    body = svg[svg.index("<svg") :]
    for part in (r"<metadata>.*?</metadata>", r"<style.*?</style>", r"<defs>\s*</defs>"):
        body = re.sub(part, "", body, flags=re.DOTALL)
    body = re.sub(r"'DejaVu Sans'[^;\"]*sans-serif", _FONT, body)
    body = re.sub(r'\bid="([^"]+)"', rf'id="{chart.name}-\1"', body)
    body = re.sub(r'(href="#|url\(#)', rf"\g<1>{chart.name}-", body)
    body = body.replace(f"stroke: {_GRID}", "stroke: currentColor; stroke-opacity: 0.15")
    body = body.replace(_INK, "currentColor")
    title, attributes = f"<title>{escape(chart.title)}</title>", 'class="chart" role="img"'
    looks = 'stroke-linejoin="round" stroke-linecap="butt"'
    return re.sub(r"<svg ([^>]*)>", rf"<svg {attributes} {looks} \1>{title}", body, count=1).strip() + "\n"


def as_file(svg: str) -> bytes:
    """Returns an element of `draw` as a file whose text is dark on a light page and light on a dark one."""
    inks = "svg{color:#1f2328}@media(prefers-color-scheme:dark){svg{color:#e6edf3}}"
    return svg.replace("<title>", f"<style>{inks}</style><title>", 1).encode()


def styles(labels: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Returns a style for each label, in their order."""
    return {label: style(number) for number, label in enumerate(dict.fromkeys(labels))}
