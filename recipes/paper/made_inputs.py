"""Inputs of a dry run: tiny models with random weights, made questions and a made text.

They prove that every command runs, and nothing else.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from regrow.evaluation.tasks import TASKS as SOURCES
from regrow.evaluation.tasks.benchmark import Benchmark
from settings import TASKS, Model

# Fields of a row of each task; {n} is the number of the row.
_ROWS: Final[dict[str, dict[str, str]]] = {
    "tinygsm8k": {"question": "Tom has {n} pens and buys as many. How many?", "answer": "#### {n}"},
    "math500": {"problem": "What is {n} squared?", "answer": "{n}^2"},
    "minerva": {"problem": "A mass of {n} kg?", "solution": "It is $\\boxed{{{n}}}$."},
    "amc23": {"question": "Which number follows {n}?", "answer": "{n}.0"},
    "gpqa-diamond": {
        "Question": "Which of these is {n}?",
        "Correct Answer": "{n}",
        "Incorrect Answer 1": "-{n}",
        "Incorrect Answer 2": "1/{n}",
        "Incorrect Answer 3": "none",
    },
}
_LAYERS, _HEAD_WIDTH, _NEURONS_PER_WIDTH = 2, 16, 4


def write_models(folder: Path, models: Sequence[Model]) -> dict[str, str]:
    """Writes a tiny model of each architecture with random weights; returns the directories by name."""
    return {model.name: str(_write_model(folder / f"tiny-random-{model.name}", model)) for model in models}


def _write_model(folder: Path, model: Model) -> Path:
    import torch
    from transformers import AutoTokenizer

    from regrow.bench.shapes import shape
    from regrow.bundled import model_path

    tokenizer = AutoTokenizer.from_pretrained(model_path())
    whole = shape(model.name)
    heads = whole.heads // whole.kv_heads
    tiny = replace(
        whole,
        layers=_LAYERS,
        width=heads * _HEAD_WIDTH,
        neurons=heads * _HEAD_WIDTH * _NEURONS_PER_WIDTH,
        heads=heads,
        kv_heads=1,
        head_width=_HEAD_WIDTH,
        vocabulary=len(tokenizer),
    )
    tiny.build(torch.bfloat16, torch.device("cpu")).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_data(folder: Path) -> str:
    """Writes a file for every task, with as many rows as the real one; returns the folder."""
    for name in TASKS:
        source = SOURCES[name]
        assert isinstance(source, Benchmark)
        rows = [
            {field: text.format(n=number) for field, text in _ROWS[name].items()}
            for number in range(1, source.count + 1)
        ]
        _write_rows(folder / source.file, rows)
    return str(folder)


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def write_text(path: Path) -> str:
    """Writes a text to calibrate on; returns its path."""
    path.write_text("".join(f"{n} and {n + 1} are {2 * n + 1}.\n" for n in range(200)), encoding="utf-8")
    return str(path)
