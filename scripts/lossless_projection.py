"""Draws the projection of lossless decoding on a GPU: `python scripts/lossless_projection.py`.

Writes docs/images/lossless-projection.svg. Nothing in it was measured as a whole: dense steps and the memory
bandwidth are those of results/h200, and the kernel's share of that bandwidth is the x axis. `AGREEMENT` is
what the 4-bit copy of the real model reached at batch 1 (results/lossless/real-model.json).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from regrow.analysis.chart import Chart, Line, Point, as_file, draw, styles
from regrow.decoding.window import WINDOWS, Costs

HOME = Path(__file__).parents[1]
MODEL, PROMPT = "qwen-7b", 128
# Shares of the weights of blocks and head that a draft step reads: 4 bits with scale and offset for 128
# weights, and 8 bits with the same.
BLOCKS, HEAD = (4 + 32 / 128) / 16, (8 + 32 / 128) / 16
HEAD_BYTES = 1.09e9  # docs/performance.md
FLOPS = 6e14  # operations a second of large matmuls: assumed; an H200 is specified at 9.9e14
OTHER = 0.09  # share of a dense step that does not read weights
AGREEMENT = 0.98
SHARES = (0.4, 0.5, 0.6, 0.65, 0.7, 0.8, 0.9)


def chart() -> Chart:
    """Returns the projection: gain over dense decoding, by the bandwidth that the 4-bit kernel reaches."""
    found = json.loads((HOME / "results" / "h200" / "decode.json").read_text())
    rows = {row["rows"]: row for row in found["rows"] if (row["model"], row["label"]) == (MODEL, "dense")}
    lines = []
    for batch in (1, 4, 16):
        points = []
        for share in SHARES:
            costs = _costs(rows, batch, share * found["bandwidth"]["copy"])
            window = costs.best(AGREEMENT)
            points.append(Point(share, costs.gain(window, AGREEMENT) if window else 1.0))
        lines.append(Line(f"batch {batch}", tuple(points)))
    return Chart(
        "lossless-projection",
        "Projection, not a measurement: lossless decoding with a 4-bit copy on an H200, Qwen2.5-7B's shape",
        "share of the memory's copy bandwidth that the 4-bit kernel reaches",
        "times as fast as dense (projected)",
        tuple(lines),
        y_range=(0.9, 3.0),
        level=1.0,
    )


def _costs(rows: dict[int, Any], batch: int, bandwidth: float) -> Costs:
    dense = rows[batch]["ms"]["dense"] / 1e3
    weights = rows[1]["bytes_per_step"] - HEAD_BYTES
    draft = OTHER * dense + (BLOCKS * weights + HEAD * HEAD_BYTES) / bandwidth
    return Costs(dense, draft, {window: _check(rows, batch * (window + 1)) for window in WINDOWS})


def _check(rows: dict[int, Any], tokens: int) -> float:
    """Returns the seconds of a dense pass over so many tokens, from steps of as many rows.

    Between measured batch sizes and beyond the largest one, the time grows linearly, and it is never less
    than the operations take.
    """
    sizes = sorted(rows)
    low = max((size for size in sizes[:-1] if size <= tokens), default=sizes[0])
    high = sizes[sizes.index(low) + 1]
    first, second = (rows[size]["ms"]["dense"] / 1e3 for size in (low, high))
    operations = rows[1]["bytes_per_step"] * tokens  # a weight of two bytes takes two operations
    return float(max(first + (second - first) * (tokens - low) / (high - low), operations / FLOPS))


if __name__ == "__main__":
    drawn = chart()
    picture = draw(drawn, styles([line.label for line in drawn.lines]))
    (HOME / "docs" / "images" / f"{drawn.name}.svg").write_bytes(as_file(picture))
    for line in drawn.lines:
        print(line.label, ", ".join(f"{point.x:.2f}: {point.y:.2f}x" for point in line.points))
