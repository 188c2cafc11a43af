"""Made files of benchmarks, in the form of the real ones, for tests without the real data."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from regrow.evaluation.tasks.benchmark import Benchmark

ROWS: dict[str, dict[str, Any]] = {
    "gsm8k": {"question": "What is {n} + {n}?", "answer": "Add them.\n#### 1,{n:03}"},
    "tinygsm8k": {"question": "What is {n} + {n}?", "answer": "Add them.\n#### {n}"},
    "math500": {"problem": "Halve ${n}$.", "solution": "so \\boxed{{1}}", "answer": "\\frac{{{n}}}{{2}}"},
    "minerva": {"problem": "Weigh star {n}.", "solution": "It is $\\boxed{{{n}.5e30}}$ kg.", "idx": "{n}"},
    "amc23": {"id": "{n}", "question": "Find ${n}$.", "answer": "{n}.0"},
    "aime24": {"problem": "Find ${n}$.", "answer": "{n}"},
    "aime25": {"problem": "Find ${n}$.", "answer": "{n}"},
    "gpqa-diamond": {
        "Question": " Which is {n}? ",
        "Correct Answer": "{n} \n",
        "Incorrect Answer 1": "-{n}",
        "Incorrect Answer 2": "{n}, and more",
        "Incorrect Answer 3": "none",
    },
}


def made_row(name: str, number: int) -> dict[str, str]:
    return {field: value.format(n=number) for field, value in ROWS[name].items()}


def write_benchmark(benchmark: Benchmark, directory: Path, count: int | None = None) -> Path:
    """Writes a file with `count` rows (None: as many as the benchmark has) and returns its path."""
    path = directory / benchmark.file
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [made_row(benchmark.name, number) for number in range(1, 1 + (count or benchmark.count))]
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path
