"""Pictures of an inspected batch: heat maps as PNG, curves and matrices as SVG."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import BytesIO
from math import isnan
from typing import Any, Final

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from regrow.analysis.inspection import HeatMap, Inspection, Overlap, Panel, average

KEPT, LEFT_OUT = "Blues", "Reds"  # colour maps of computed neurons, and of those that a mask leaves out
BRIGHTEST: Final = 0.999  # quantile of the magnitudes that gets the darkest colour
_MATRICES_IN_A_ROW: Final = 4


def pictures(found: Inspection) -> Iterator[tuple[str, bytes]]:
    """Yields the name and the content of each file. The same inspection gives the same bytes."""
    for heat_map in found.maps:
        yield f"activations-layer-{heat_map.layer}.png", _png(_activations(found, heat_map))
    if found.successive:
        yield "refreshes.svg", _svg(_refreshes(found))
    if found.overlap is not None:
        yield "samples.svg", _svg(_samples(found, found.overlap))
    yield "energy.svg", _svg(_energy(found))


def _activations(found: Inspection, heat_map: HeatMap) -> Figure:
    """Draws |z| / ||z|| of a layer, neurons against tokens, with a panel for each sample."""
    panels = heat_map.panels
    page = Figure(figsize=(11, 1.2 + 2.6 * len(panels)), layout="constrained", dpi=110)
    seen = sorted(value for panel in panels for row in panel.magnitude for value in row if not isnan(value))
    norm = PowerNorm(gamma=0.5, vmin=0, vmax=seen[int(BRIGHTEST * (len(seen) - 1))] or 1, clip=True)
    axes = list(page.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0])
    for axis, panel in zip(axes, panels, strict=True):
        _panel(axis, found, heat_map, panel, norm)
    axes[-1].set_xlabel("decode step (0 and below: the end of the prompt)")
    axes[0].set_title(
        "vertical line: decoding begins; ▾: a mask is selected; dashed: neurons of the last mask are above",
        fontsize=8,
        loc="left",
        pad=14,
    )
    for colours, text in ((KEPT, "computed"), (LEFT_OUT, "left out by the mask")):
        bar = page.colorbar(ScalarMappable(norm, colours), ax=axes, pad=0.01, fraction=0.025)
        bar.set_label(f"|z| / ‖z‖, {text}", fontsize=8)
    page.suptitle(f"layer {heat_map.layer}: activations of {found.neurons} neurons", fontsize=10)
    return page


def _panel(axis: Axes, found: Inspection, heat_map: HeatMap, panel: Panel, norm: PowerNorm) -> None:
    begin, bands = heat_map.prompt_columns, len(panel.magnitude)
    # Column c holds decode step c - begin + 1, and the last prompt token is at 0.
    extent = 0.5 - begin, 0.5 - begin + len(panel.magnitude[0]), bands * heat_map.band, 0
    for colours, drawn in ((KEPT, False), (LEFT_OUT, True)):
        values = [
            [value if left_out is drawn else float("nan") for value, left_out in zip(row, out, strict=True)]
            for row, out in zip(panel.magnitude, panel.left_out, strict=True)
        ]
        axis.imshow(values, cmap=colours, norm=norm, extent=extent, aspect="auto", interpolation="nearest")
    axis.axvline(0.5, color="black", linewidth=1)
    axis.axhline(heat_map.kept, color="black", linewidth=0.6, linestyle="--")
    marks = [step + 0.5 for step in found.selections]
    axis.plot(marks, [0] * len(marks), "v", color="black", markersize=3, clip_on=False)
    axis.set_ylim(found.neurons, 0)
    band = f", {heat_map.band} a row" if heat_map.band > 1 else ""
    axis.set_ylabel(f"sample {panel.sample}\nneurons by score{band}", fontsize=8)


def _refreshes(found: Inspection) -> Figure:
    """Draws what successive masks have in common, at each refresh."""
    page = Figure(figsize=(8, 4.2), layout="constrained")
    axis = page.subplots()
    steps = found.selections[1:]
    for place, layer in enumerate(found.layers):
        shares = [100 * row[place] for row in found.successive]
        axis.plot(steps, shares, ".-", color=_shade(found, place), linewidth=0.9, label=f"layer {layer}")
    means = [100 * sum(row) / len(row) for row in found.successive]
    axis.plot(steps, means, "o-", color="black", linewidth=1.8, markersize=4, label="mean")
    _chance(axis, found)
    axis.set(
        title="neurons that a new mask shares with the one before it",
        xlabel="decode step after which the mask is selected",
        ylabel="|Iₙ ∩ Iₙ₋₁| / |Iₙ|, %",
    )
    _finish(page, [axis], axis)
    return page


def _samples(found: Inspection, overlap: Overlap) -> Figure:
    """Draws the overlap of the samples' own neurons: a matrix for each drawn layer, then all layers."""
    count = len(found.drawn)
    columns = min(count, _MATRICES_IN_A_ROW)
    rows = -(-count // columns)
    page = Figure(figsize=(max(8, 2.6 * columns), 2.7 * rows + 3.6), layout="constrained")
    parts: Any = page.subfigures(2, 1, height_ratios=(2.7 * rows, 3.6))
    above, below = parts
    axes = above.subplots(rows, columns, squeeze=False).flatten()
    for axis in axes[count:]:
        axis.set_visible(False)
    for axis, layer in zip(axes, found.drawn, strict=False):
        _matrix(axis, overlap, found.place(layer))
        axis.set_title(f"layer {layer}", fontsize=9)
    above.suptitle("neurons that two samples have in common, each by its own scores, %", fontsize=10)
    axis = below.subplots()
    places = range(len(found.layers))
    common = [100 * (overlap.mean_common(place) or 0) for place in places]
    mean = [100 * (average(overlap.kept[place]) or 0) for place in places]
    least = [100 * min(overlap.kept[place]) for place in places]
    axis.plot(found.layers, common, "o-", label="two samples in common, mean of the pairs")
    axis.plot(found.layers, mean, "s-", label="own neurons that the shared mask keeps, mean")
    axis.plot(found.layers, least, "v--", label="the same for the sample that loses most")
    axis.plot(
        found.layers,
        [100 * kept / found.neurons for kept in found.kept],
        color="0.5",
        linestyle=":",
        label="by chance",
    )
    axis.set(xlabel="layer", ylabel="% of k")
    axis.xaxis.get_major_locator().set_params(integer=True)
    below.legend(loc="outside right upper", fontsize=8)
    return page


def _matrix(axis: Axes, overlap: Overlap, place: int) -> None:
    values = [[100 * share for share in row] for row in overlap.common[place]]
    size = len(values)
    axis.imshow(values, cmap="viridis", vmin=0, vmax=100)
    axis.set_xticks(range(size), [str(sample) for sample in overlap.samples], fontsize=7)
    axis.set_yticks(range(size), [str(sample) for sample in overlap.samples], fontsize=7)
    for i in range(size if size <= 8 else 0):
        for j in range(size):
            colour = "black" if values[i][j] > 55 else "white"
            axis.text(j, i, f"{values[i][j]:.0f}", ha="center", va="center", fontsize=7, color=colour)


def _energy(found: Inspection) -> Figure:
    """Draws the activation energy that the mask keeps, step by step for each sample, and by layer."""
    page = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = page.subplots(1, 2, sharey=True, width_ratios=(1.6, 1))
    steps = range(1, found.decode_steps + 1)
    for sample, shares in enumerate(found.energy.by_step):
        colour = f"C{sample % 10}"
        left.plot(steps, _percents(shares), color=colour, linewidth=0.9, label=f"sample {sample + 1}")
    left.set(
        title="by decode step, mean over the layers; gaps are dense steps",
        xlabel="decode step",
        ylabel="share of ‖z‖² in the kept neurons, %",
    )
    for name, energy, style in (
        ("in the mask", found.energy, "o-"),
        ("best for each token", found.best, "^:"),
    ):
        shares = [average(row) for row in energy.by_layer]
        right.plot(found.layers, _percents(shares), style, color="black", label=name)
    _chance(right, found)
    right.set(title="by layer, mean over samples and sparse steps", xlabel="layer")
    right.xaxis.get_major_locator().set_params(integer=True)
    _finish(page, [left, right], left)
    right.legend(fontsize=8)
    return page


def _finish(page: Figure, axes: Sequence[Axes], labelled: Axes) -> None:
    """Sets what the figures have in common, and the legend unless it would be too long."""
    for axis in axes:
        axis.title.set_fontsize(10)
        axis.grid(color="0.92", linewidth=0.6)
        axis.set_axisbelow(True)
    handles, labels = labelled.get_legend_handles_labels()
    page.legend(handles, labels, loc="outside right upper", fontsize=7 if len(labels) < 20 else 5)


def _chance(axis: Axes, found: Inspection) -> None:
    axis.axhline(100 * found.chance, color="0.5", linestyle="--", linewidth=1, label="by chance, k / F")


def _shade(found: Inspection, place: int) -> tuple[float, float, float, float]:
    """Returns the colour of a layer, from dark for the first to light for the last."""
    share = place / max(len(found.layers) - 1, 1)
    return 0.25 + 0.5 * share, 0.2 + 0.6 * share, 0.6 + 0.3 * share, 1.0


def _percents(shares: Sequence[float | None]) -> list[float]:
    """Returns percent values, with NaN (a gap in a line) for None."""
    return [float("nan") if share is None else 100 * share for share in shares]


def _png(page: Figure) -> bytes:
    content = BytesIO()
    page.savefig(content, format="png", metadata={"Software": None})
    return content.getvalue()


def _svg(page: Figure) -> bytes:
    content = BytesIO()
    with rc_context({"svg.hashsalt": "regrow"}):
        page.savefig(content, format="svg", metadata={"Date": None})
    return content.getvalue()
