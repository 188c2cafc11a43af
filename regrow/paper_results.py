"""The numbers that the paper of Batch-wise Adaptive Pruning prints. Standard library only."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, final

_TARGET: Final = 0.5  # of everything but the dense model, unless an entry says otherwise
_ABLATED: Final = {"init_steps": "T_init", "explore_steps": "T_e", "period": "T_trans"}
# The shapes of `regrow bench` that belong to the paper's models.
SHAPES: Final = {"DeepSeek-R1-Distill-Qwen-7B": "qwen-7b", "DeepSeek-R1-Distill-Llama-8B": "llama-8b"}


def shape_of(model: str) -> str:
    """Returns the shape of a model of the paper, given by hub id or directory; any other name as it is."""
    return SHAPES.get(Path(model).name, model)


@final
@dataclass(frozen=True)
class Accuracy:
    """One accuracy of the paper."""

    model: str
    task: str
    method: str  # as Regrow's own tables call it
    target: float  # target sparsity
    batch_size: int | None  # None if the paper does not state it
    percent: float


@final
@dataclass(frozen=True)
class Speed:
    """One decoding speed of the paper, at 50 % target sparsity."""

    model: str
    method: str  # as Regrow's own tables call it
    batch_size: int
    tokens_per_second: float
    ratio: float  # to dense at the same batch size


@cache
def results() -> dict[str, Any]:
    """Returns the content of the file, which also states its source and the conditions."""
    found: dict[str, Any] = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
    return found


def accuracies() -> list[Accuracy]:
    """Returns the accuracies of tables 2 to 4 and figure 5, each cell once."""
    cells = {
        (cell.model, cell.task, cell.method, cell.target, cell.batch_size): cell for cell in _accuracies()
    }
    return list(cells.values())


def _accuracies() -> Iterator[Accuracy]:
    for model, methods in results()["accuracy_percent"].items():
        for method, sizes in methods.items():
            for size, tasks in sizes.items():
                for task, percent in tasks.items():
                    target = 0.0 if method == "dense" else _TARGET
                    yield Accuracy(
                        model, task, method, target, int(size) if size.isdecimal() else None, percent
                    )
    table, figure = results()["ablation"], results()["by_sparsity"]
    usual = {"init_steps": 64, "explore_steps": 2, "period": 20}
    for row in table["rows"]:
        changed = [f"{_ABLATED[name]} {row[name]}" for name, value in usual.items() if row[name] != value]
        method = ", ".join(["BAP", *changed])
        yield Accuracy(
            table["model"], table["task"], method, _TARGET, table["batch_size"], row["accuracy_percent"]
        )
    for method, targets in figure["accuracy_percent"].items():
        for target, percent in targets.items():
            yield Accuracy(
                figure["model"], figure["task"], method, int(target) / 100, figure["batch_size"], percent
            )


def speeds() -> list[Speed]:
    """Returns the speeds of tables 5 and 6."""
    return [
        Speed(model, method, int(size), speed, speed / methods["dense"][size])
        for model, methods in results()["tokens_per_second"].items()
        for method, sizes in methods.items()
        for size, speed in sizes.items()
    ]
