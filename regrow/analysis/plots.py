"""Figures of a comparison, as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from regrow.analysis.chart import style
from regrow.analysis.comparison_table import ComparisonRow

SMALLEST, LARGEST = 4.0, 9.0  # points, of the markers of the smallest and the largest batch size


def figure(rows: Sequence[ComparisonRow], file: IO[bytes] | Path, sparsity: float) -> None:
    """Draws accuracy, divergence from dense and actual sparsity against batch size, at one target sparsity.

    There is one line a method with two batch sizes or more, or one marker a method if none has two. `file`
    gets the SVG; the same rows give the same bytes.
    """
    lines = _lines(rows, sparsity)
    page = Figure(figsize=(11, 4), layout="constrained")
    titles = ("problems right, %", "KL(dense ‖ pruned), nats a token", "actual sparsity, %")
    axes = page.subplots(1, len(titles))
    sizes = sorted({row.batch_size for line in lines.values() for row in line})
    for axis, title, value in zip(axes, titles, (_right, _kl, _actual), strict=True):
        axis.set(title=title, xlabel="batch size")
        axis.set_xticks(range(len(sizes)), [str(size) for size in sizes])
        for number, line in enumerate(lines.values()):
            points = [(sizes.index(row.batch_size), y) for row in line if (y := value(row)) is not None]
            _draw(axis, number, points)
    axes[0].set_ylim(-4, 104)
    axes[1].set_yscale("symlog", linthresh=1e-3)
    axes[2].axhline(100 * sparsity, color="0.7", linewidth=0.8, zorder=0)
    _save(page, axes, list(lines), sparsity, file)


def tradeoff(rows: Sequence[ComparisonRow], file: IO[bytes] | Path, sparsity: float) -> None:
    """Draws what is kept of the dense answers against the FFN bytes that a decode step reads.

    The left side has the problems answered right, the right side the share of tokens that the dense model
    would have chosen too. A method has a marker for each batch size, the larger the batch the larger the
    marker. `file` gets the SVG; the same rows give the same bytes.
    """
    lines = _lines(rows, sparsity)
    dense = {row.batch_size: _bytes(row) for row in rows if not row.target}
    sizes = sorted({row.batch_size for line in lines.values() for row in line})
    page = Figure(figsize=(10, 4.2), layout="constrained")
    titles = "problems right, %", "same top token as dense, %"
    axes = page.subplots(1, len(titles))
    for axis, title, value in zip(axes, titles, (_right, _agreement), strict=True):
        axis.set(title=title, xlabel="FFN weights read by a decode step, % of dense", xlim=(0, 104))
        for number, line in enumerate(lines.values()):
            points, scale = [], []
            for row in line:
                share, y = _share(row, dense), value(row)
                if share is not None and y is not None:
                    points.append((share, y))
                    scale.append(sizes.index(row.batch_size) / (len(sizes) - 1) if len(sizes) > 1 else 0.5)
            _draw(axis, number, points, scale)
        axis.set_ylim(-4, 104)
        axis.grid(color="0.9", linewidth=0.6)
        axis.set_axisbelow(True)
    if len(sizes) > 1:
        page.supxlabel(f"markers from small to large: batch {', '.join(map(str, sizes))}", fontsize=8)
    _save(page, axes, list(lines), sparsity, file)


def _lines(rows: Sequence[ComparisonRow], sparsity: float) -> dict[str, list[ComparisonRow]]:
    """Groups the rows at one target sparsity by label, ordered by batch size.

    Labels with one batch size are left out if another label has several.
    """
    shown = sorted((row for row in rows if row.target in (0.0, sparsity)), key=lambda row: row.batch_size)
    lines = {
        label: [row for row in shown if row.label == label] for label in dict.fromkeys(r.label for r in rows)
    }
    enough = 2 if any(len(line) > 1 for line in lines.values()) else 1
    return {label: line for label, line in lines.items() if len(line) >= enough}


def _draw(
    axis: Axes, number: int, points: Sequence[tuple[float, float]], scale: Sequence[float] = ()
) -> None:
    """Draws one method: a thin line, and markers whose sizes follow `scale` in [0, 1]."""
    drawn = style(number)
    axis.plot([x for x, _ in points], [y for _, y in points], **{**drawn, "marker": ""}, linewidth=1.0)
    for place, (x, y) in enumerate(points):
        size = SMALLEST + (LARGEST - SMALLEST) * (scale[place] if scale else 0.2)
        axis.plot([x], [y], **{**drawn, "linestyle": ""}, markersize=size, alpha=0.85)


def _save(
    page: Figure, axes: Sequence[Axes], labels: Sequence[str], sparsity: float, file: IO[bytes] | Path
) -> None:
    page.suptitle(f"target sparsity {100 * sparsity:g} %", fontsize=10)
    handles = [axes[0].plot([], [], **style(number), label=label)[0] for number, label in enumerate(labels)]
    for axis in axes:
        axis.title.set_fontsize(10)
    page.legend(handles=handles, loc="outside right center", fontsize=8)
    with rc_context({"svg.hashsalt": "regrow"}):
        page.savefig(file, format="svg", metadata={"Date": None})


def _right(row: ComparisonRow) -> float | None:
    if row.summary is None or row.summary.missing:
        return None
    return _percent(row.summary.problems.value)


def _kl(row: ComparisonRow) -> float | None:
    return None if row.measured is None else float(row.measured["mean_kl"])


def _agreement(row: ComparisonRow) -> float | None:
    return None if row.measured is None else _percent(row.measured["agreement"])


def _actual(row: ComparisonRow) -> float | None:
    return None if row.summary is None else _percent(row.summary.counters.actual_sparsity)


def _bytes(row: ComparisonRow) -> float | None:
    """Returns the FFN bytes of a decode step."""
    return None if row.summary is None else row.summary.counters.ffn_bytes_per_step


def _share(row: ComparisonRow, dense: Mapping[int, float | None]) -> float | None:
    """Returns the FFN bytes of a decode step in percent of the dense model's at the same batch size."""
    read, whole = _bytes(row), dense.get(row.batch_size)
    return None if read is None or not whole else 100 * read / whole


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share
