"""Prints the speed table of README.md and docs/index.md, from the files in results/.

Usage: `python scripts/readme_table.py`.
"""

from __future__ import annotations

import json
from pathlib import Path

RESULTS = Path(__file__).parents[1] / "results"
SIZES = (1, 4, 8, 16)
# A row of the table: its name, a result file, the model in it, and the label of the contender.
ROWS = (
    ("**H100, 7B: Batch-wise Adaptive**", "h100/decode.json", "qwen-7b", "bap"),
    ("H100, 7B: GRIFFIN", "h100/decode.json", "qwen-7b", "griffin"),
    ("H100, 7B: TEAL", "h100/decode.json", "qwen-7b", "teal"),
    ("**CPU, 1.5B: Batch-wise Adaptive**", "bench-vllm.json", "qwen-1.5b", "bap"),
    ("CPU, 1.5B: vLLM's eager engine, dense", "bench-vllm.json", "qwen-1.5b", "vLLM, eager"),
)


def table() -> str:
    """Returns ratios of decoding speed to dense decoding through Regrow's loop, as a Markdown table."""
    head = "| speed, dense = 1 | " + " | ".join(f"batch {size}" for size in SIZES) + " |"
    lines = [head, "| --- |" + " --- |" * len(SIZES)]
    for name, file, model, label in ROWS:
        found = json.loads((RESULTS / file).read_text())["rows"]
        ratios = {
            row["rows"]: row["ratio"]["median"]
            for row in found
            if row["label"] == label and row["model"] == model
        }
        lines.append(f"| {name} | " + " | ".join(f"{ratios[size]:.2f}x" for size in SIZES) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
