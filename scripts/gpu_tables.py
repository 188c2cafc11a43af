"""Prints the GPU tables of docs/performance.md, from results/h200 and results/h100.

Usage: `python scripts/gpu_tables.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from regrow.bench.bench_result import PAPER

RESULTS = Path(__file__).parents[1] / "results"
SIZES = (1, 4, 8, 16, 64)
NONE = "–"
METHODS = {"bap": "Batch-wise Adaptive", "griffin": "GRIFFIN", "teal": "TEAL"}
STEPS = {
    "dense step": ("dense", "dense"),
    "sparse step": ("bap", "sparse"),
    "exploration step": ("bap", "observe"),
    "refresh (1 in 20 steps)": ("bap", "refresh"),
    "GRIFFIN's step": ("griffin", "sparse"),
    "TEAL's step": ("teal", "sparse"),
    "transformers' step": ("transformers", "dense"),
}
KERNELS = (
    "dense FFN (cuBLAS)",
    "sparse FFN",
    "masked linear",
    "decode attention over 256",
    "decode attention over 2000",
    "decode attention over 16000",
)
TIMED = ("scores", "selection, all layers")


def main() -> None:
    print("\n\n".join(tables()))


def tables() -> list[str]:
    """Returns tables of speed and step times on the H200, of both on the H100, and of kernels on the H100."""
    newer = [row for row in _rows("h200/decode.json") if row["model"] == "qwen-7b"]
    older = _rows("h100/decode.json")
    return [
        "\n".join(lines)
        for lines in (
            speed(newer),
            steps(newer),
            speed(older),
            steps(older),
            kernels(_rows("h100/kernels.json")),
        )
    ]


def _rows(name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((RESULTS / name).read_text())["rows"]
    return rows


def speed(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the speeds relative to dense, their upper bounds by bytes read, and the ratios of the paper."""
    dense, lines = _by_batch_size(rows, "label", "dense"), []
    lines.append(_line("dense, tokens a second", lambda n: f"{dense[n]['tokens_per_second']['median']:,.0f}"))
    lines.append(_line("its share of the copy bandwidth", lambda n: _percent(dense[n]["bandwidth_share"])))
    for label, name in METHODS.items():
        found = _by_batch_size(rows, "label", label)
        paper = {n: PAPER.ratios.get(("qwen-7b", label, n, None)) for n in SIZES}
        lines.append(
            _line(f"**{name}, 50 %**", lambda n, found=found: f"**{found[n]['ratio']['median']:.2f}x**")
        )
        lines.append(_line("at most, by bytes", lambda n, found=found: f"{found[n]['bound']:.2f}x"))
        lines.append(
            _line("the paper, on an H200", lambda n, paper=paper: f"{paper[n]:.2f}x" if paper[n] else NONE)
        )
    if stock := _by_batch_size(rows, "label", "transformers"):
        lines.append(
            _line(
                "transformers' own loop",
                lambda n: f"{stock[n]['ratio']['median']:.2f}x" if n in stock else NONE,
            )
        )
    return [*_head("ratio to dense"), *lines]


def steps(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the milliseconds of each part of a generation."""
    lines = []
    for name, (label, part) in STEPS.items():
        if found := _by_batch_size(rows, "label", label):
            lines.append(
                _line(
                    name,
                    lambda n, found=found, part=part: f"{found[n]['ms'][part]:.2f}" if n in found else NONE,
                )
            )
    return [*_head("milliseconds"), *lines]


def kernels(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the share of the copy bandwidth that each kernel reaches.

    For kernels that are not bound by memory bandwidth, the time in microseconds is given instead.
    """
    lines = []
    for name in KERNELS:
        found = _by_batch_size(rows, "kernel", name)
        lines.append(_line(name, lambda n, found=found: _percent(found[n]["share"]) if n in found else NONE))
    for name in TIMED:
        found = _by_batch_size(rows, "kernel", name)
        lines.append(
            _line(f"{name}, µs", lambda n, found=found: f"{found[n]['us']:.0f}" if n in found else NONE)
        )
    return [*_head("share of the copy bandwidth"), *lines]


def _by_batch_size(rows: Sequence[dict[str, Any]], key: str, value: str) -> dict[int, dict[str, Any]]:
    """Returns the first row of each batch size among the rows with this value under `key`."""
    return {row["rows"]: row for row in reversed(rows) if row[key] == value}


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _head(what: str) -> list[str]:
    return [_line(what, lambda n: f"batch {n}"), "|---" * (len(SIZES) + 1) + "|"]


def _line(name: str, cell: Callable[[int], str]) -> str:
    return f"| {name} | {' | '.join(cell(size) for size in SIZES)} |"


if __name__ == "__main__":
    main()
