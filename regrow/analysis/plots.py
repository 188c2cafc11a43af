"""Figures of a comparison."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from regrow.analysis.comparison_table import ComparisonRow


def figure(rows: Sequence[ComparisonRow], file: IO[bytes] | Path, sparsity: float) -> None:
    """At one target sparsity: accuracy, divergence from dense and actual sparsity against batch size, a line a method with two sizes or
    more; a mark a method where none has two. Written to `file` as SVG."""
    shown = [row for row in rows if row.target in (0.0, sparsity)]
    page = Figure(figsize=(11, 4), layout="constrained")
    parts: tuple[tuple[str, Callable[[ComparisonRow], float | None]], ...] = (
        (
            "problems right, %",
            lambda row: (
                None
                if row.summary is None or row.summary.missing
                else _hundredfold(row.summary.problems.value)
            ),
        ),
        (
            "KL(dense ‖ pruned), nats a token",
            lambda row: None if row.measured is None else row.measured["mean_kl"],
        ),
        (
            "actual sparsity, %",
            lambda row: None if row.summary is None else _hundredfold(row.summary.counters.actual_sparsity),
        ),
    )
    axes = page.subplots(1, len(parts))
    for axis, (title, value) in zip(axes, parts, strict=True):
        _lines(axis, shown, value)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("batch size")
    axes[1].set_yscale("symlog", linthresh=1e-3)
    axes[2].axhline(100 * sparsity, color="0.7", linewidth=0.8, zorder=0)
    handles, labels = max(
        (axis.get_legend_handles_labels() for axis in axes), key=lambda found: len(found[1])
    )
    page.legend(handles, labels, loc="outside right center", fontsize=8)
    with rc_context({"svg.hashsalt": "regrow"}):  # the same rows give the same file
        page.savefig(file, format="svg", metadata={"Date": None})


def _lines(axis: Axes, rows: Sequence[ComparisonRow], value: Callable[[ComparisonRow], float | None]) -> None:
    sizes = sorted({row.batch_size for row in rows})
    labels = dict.fromkeys(row.label for row in rows)
    lines = {
        label: sorted(
            (row.batch_size, found)
            for row in rows
            if row.label == label and (found := value(row)) is not None
        )
        for label in labels
    }
    enough = 2 if any(len(points) > 1 for points in lines.values()) else 1
    for number, (label, points) in enumerate(lines.items()):
        if len(points) >= enough:
            style = ("-", "--", ":")[number // 10 % 3]
            axis.plot(
                [sizes.index(x) for x, _ in points],
                [y for _, y in points],
                style,
                marker=".",
                color=f"C{number % 10}",
                label=label,
            )
    axis.set_xticks(range(len(sizes)), [str(size) for size in sizes])


def _hundredfold(share: float | None) -> float | None:
    return None if share is None else 100 * share
