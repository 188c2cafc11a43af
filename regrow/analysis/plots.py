"""Figures of a comparison."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from regrow.analysis.comparison import Row


def figure(rows: Sequence[Row], path: Path, sparsity: float) -> None:
    """At one target sparsity: accuracy, divergence from dense and actual sparsity against batch size, a line a method with two sizes or
    more. Written as SVG."""
    shown = [row for row in rows if row.target in (0.0, sparsity)]
    page = Figure(figsize=(11, 4), layout="constrained")
    parts: tuple[tuple[str, Callable[[Row], float | None]], ...] = (
        ("problems right, %", lambda row: None if row.summary is None or row.summary.missing else _percent(row.summary.problems.value)),
        ("KL(dense ‖ pruned), nats a token", lambda row: None if row.divergence is None else row.divergence["mean_kl"]),
        ("actual sparsity, %", lambda row: None if row.summary is None else _percent(row.summary.counters.actual_sparsity)),
    )
    axes = page.subplots(1, len(parts))
    for axis, (title, value) in zip(axes, parts, strict=True):
        _lines(axis, shown, value)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("batch size")
    axes[1].set_yscale("symlog", linthresh=1e-3)
    axes[2].axhline(100 * sparsity, color="0.7", linewidth=0.8, zorder=0)
    handles, labels = axes[1].get_legend_handles_labels()
    page.legend(handles, labels, loc="outside right center", fontsize=8)
    with rc_context({"svg.hashsalt": "regrow"}):  # the same rows give the same file
        page.savefig(path, format="svg", metadata={"Date": None})


def _lines(axis: Axes, rows: Sequence[Row], value: Callable[[Row], float | None]) -> None:
    sizes = sorted({row.batch_size for row in rows})
    for number, label in enumerate(dict.fromkeys(row.label for row in rows)):
        points = [(row.batch_size, found) for row in rows if row.label == label and (found := value(row)) is not None]
        if len(points) > 1:
            points.sort()
            style = ("-", "--", ":")[number // 10 % 3]
            axis.plot([sizes.index(x) for x, _ in points], [y for _, y in points], style, marker=".", color=f"C{number % 10}", label=label)
    axis.set_xticks(range(len(sizes)), [str(size) for size in sizes])


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share
