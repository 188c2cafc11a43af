"""Prints the speed table of README.md, from the files in results/.

Usage: `python scripts/readme_table.py`.
"""

from __future__ import annotations

import json
from pathlib import Path

RESULTS = Path(__file__).parents[1] / "results"
SIZES = (1, 4, 8, 16)
EARLY, BEFORE, CPU = "h200/decode-early.json", "h200/decode.json", "bench-vllm.json"
# A row of the table: its name, result files (the first that has a batch size counts), model and contender.
ROWS = (
    ("**H200, 7B: Batch-wise Adaptive**", (EARLY, BEFORE), "qwen-7b", "bap"),
    ("H200, 7B: GRIFFIN", (EARLY, BEFORE), "qwen-7b", "griffin"),
    # BEFORE has TEAL with thresholds that do not fit larger batches.
    ("H200, 7B: TEAL", (EARLY,), "qwen-7b", "teal"),
    ("**CPU, 1.5B: Batch-wise Adaptive**", (CPU,), "qwen-1.5b", "bap"),
    ("CPU, 1.5B: vLLM's eager engine, dense", (CPU,), "qwen-1.5b", "vLLM, eager"),
)


def table() -> str:
    """Returns ratios of decoding speed to dense decoding through Regrow's loop, as a Markdown table."""
    head = "| speed, dense = 1 | " + " | ".join(f"batch {size}" for size in SIZES) + " |"
    lines = [head, "| --- |" + " --- |" * len(SIZES)]
    for name, files, model, label in ROWS:
        ratios = {
            row["rows"]: row["ratio"]["median"]
            for file in reversed(files)
            for row in json.loads((RESULTS / file).read_text())["rows"]
            if row["label"] == label and row["model"] == model
        }
        cells = (f"{ratios[size]:.2f}x" if size in ratios else "–" for size in SIZES)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
