"""Prints the tables of docs/performance.md that come from results/h200 and results/h100: `python scripts/gpu_tables.py`."""

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
    """Return speed and the parts of a generation on the H200, the same on the H100, and the kernels there one by one."""
    newer = [row for row in _rows("h200/decode.json") if row["model"] == "qwen-7b"]
    older = _rows("h100/decode.json")
    return [
        "\n".join(lines)
        for lines in (
            speed(newer),
            steps(newer),
            speed(older),
            steps(older),
            of_kernels(_rows("h100/kernels.json")),
        )
    ]


def _rows(name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((RESULTS / name).read_text())["rows"]
    return rows


def speed(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the ratios to dense, what the bytes allow, and the paper's."""
    dense, lines = _of(rows, "label", "dense"), []
    lines.append(_line("dense, tokens a second", lambda n: f"{dense[n]['tokens_per_second']['median']:,.0f}"))
    lines.append(_line("its share of the copy bandwidth", lambda n: _percent(dense[n]["bandwidth_share"])))
    for label, name in METHODS.items():
        found = _of(rows, "label", label)
        paper = {n: PAPER.ratios.get(("qwen-7b", label, n, None)) for n in SIZES}
        lines.append(
            _line(f"**{name}, 50 %**", lambda n, found=found: f"**{found[n]['ratio']['median']:.2f}x**")
        )
        lines.append(_line("at most, by bytes", lambda n, found=found: f"{found[n]['bound']:.2f}x"))
        lines.append(
            _line("the paper, on an H200", lambda n, paper=paper: f"{paper[n]:.2f}x" if paper[n] else NONE)
        )
    if stock := _of(rows, "label", "transformers"):
        lines.append(
            _line(
                "transformers' own loop",
                lambda n: f"{stock[n]['ratio']['median']:.2f}x" if n in stock else NONE,
            )
        )
    return [*_head("ratio to dense"), *lines]


def steps(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return what the parts of a generation take."""
    lines = []
    for name, (label, part) in STEPS.items():
        if found := _of(rows, "label", label):
            lines.append(
                _line(
                    name,
                    lambda n, found=found, part=part: f"{found[n]['ms'][part]:.2f}" if n in found else NONE,
                )
            )
    return [*_head("milliseconds"), *lines]


def of_kernels(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the share of the bandwidth that each kernel comes to, and the time of those that bytes do not bound."""
    lines = []
    for name in KERNELS:
        found = _of(rows, "kernel", name)
        lines.append(_line(name, lambda n, found=found: _percent(found[n]["share"]) if n in found else NONE))
    for name in TIMED:
        found = _of(rows, "kernel", name)
        lines.append(
            _line(f"{name}, µs", lambda n, found=found: f"{found[n]['us']:.0f}" if n in found else NONE)
        )
    return [*_head("share of the copy bandwidth"), *lines]


def _of(rows: Sequence[dict[str, Any]], key: str, value: str) -> dict[int, dict[str, Any]]:
    """Return the first row of each batch size."""
    return {row["rows"]: row for row in reversed(rows) if row[key] == value}


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _head(what: str) -> list[str]:
    return [_line(what, lambda n: f"batch {n}"), "|---" * (len(SIZES) + 1) + "|"]


def _line(name: str, cell: Callable[[int], str]) -> str:
    return f"| {name} | {' | '.join(cell(size) for size in SIZES)} |"


if __name__ == "__main__":
    main()
