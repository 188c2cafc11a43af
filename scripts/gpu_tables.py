"""Prints the GPU tables of docs/performance.md, from results/h200 and results/h100.

Usage: `python scripts/gpu_tables.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from regrow.bench.bench_result import PAPER

RESULTS = Path(__file__).parents[1] / "results"
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
    "the same, static cache": ("transformers, static cache", "dense"),
}
STOCK = {
    "transformers": "transformers' own loop",
    "transformers, static cache": "the same, static cache (compiled)",
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
    """Returns tables of speed and step times: two pairs of the H200, one of the H100, and its kernels."""
    early = _rows("h200/decode-early.json")
    newer = [row for row in _rows("h200/decode.json") if row["model"] == "qwen-7b"]
    older = _rows("h100/decode.json")
    return [
        "\n".join(lines)
        for lines in (
            speed(early),
            steps(early),
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
    sizes, dense = _sizes(rows), _by_batch_size(rows, "label", "dense")
    line = partial(_line, sizes)
    lines = [
        line("dense, tokens a second", lambda n: f"{dense[n]['tokens_per_second']['median']:,.0f}"),
        line("its share of the copy bandwidth", lambda n: _percent(dense[n]["bandwidth_share"])),
    ]
    for label, name in METHODS.items():
        found = _by_batch_size(rows, "label", label)
        paper = {n: PAPER.ratios.get(("qwen-7b", label, n, None)) for n in sizes}
        lines.append(
            line(f"**{name}, 50 %**", lambda n, found=found: f"**{found[n]['ratio']['median']:.2f}x**")
        )
        if any(found[n].get("sparsity") for n in sizes):
            lines.append(line("weights left out", lambda n, found=found: _percent(found[n]["sparsity"])))
        lines.append(line("at most, by bytes", lambda n, found=found: f"{found[n]['bound']:.2f}x"))
        lines.append(
            line("the paper, on an H200", lambda n, paper=paper: f"{paper[n]:.2f}x" if paper[n] else NONE)
        )
    for label, name in STOCK.items():
        if stock := _by_batch_size(rows, "label", label):
            lines.append(
                line(
                    name,
                    lambda n, stock=stock: f"{stock[n]['ratio']['median']:.2f}x" if n in stock else NONE,
                )
            )
    return [*_head("ratio to dense", sizes), *lines]


def steps(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the milliseconds of each part of a generation."""
    sizes, lines = _sizes(rows), []
    for name, (label, part) in STEPS.items():
        if found := _by_batch_size(rows, "label", label):
            lines.append(
                _line(
                    sizes,
                    name,
                    lambda n, found=found, part=part: f"{found[n]['ms'][part]:.2f}" if n in found else NONE,
                )
            )
    return [*_head("milliseconds", sizes), *lines]


def kernels(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the share of the copy bandwidth that each kernel reaches.

    For kernels that are not bound by memory bandwidth, the time in microseconds is given instead.
    """
    sizes, lines = _sizes(rows), []
    for name in KERNELS:
        found = _by_batch_size(rows, "kernel", name)
        lines.append(
            _line(sizes, name, lambda n, found=found: _percent(found[n]["share"]) if n in found else NONE)
        )
    for name in TIMED:
        found = _by_batch_size(rows, "kernel", name)
        lines.append(
            _line(
                sizes, f"{name}, µs", lambda n, found=found: f"{found[n]['us']:.0f}" if n in found else NONE
            )
        )
    return [*_head("share of the copy bandwidth", sizes), *lines]


def _by_batch_size(rows: Sequence[dict[str, Any]], key: str, value: str) -> dict[int, dict[str, Any]]:
    """Returns the first row of each batch size among the rows with this value under `key`."""
    return {row["rows"]: row for row in reversed(rows) if row[key] == value}


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _sizes(rows: Sequence[dict[str, Any]]) -> list[int]:
    return sorted({row["rows"] for row in rows})


def _head(what: str, sizes: Sequence[int]) -> list[str]:
    return [_line(sizes, what, lambda n: f"batch {n}"), "|---" * (len(sizes) + 1) + "|"]


def _line(sizes: Sequence[int], name: str, cell: Callable[[int], str]) -> str:
    return f"| {name} | {' | '.join(cell(size) for size in sizes)} |"


if __name__ == "__main__":
    main()
