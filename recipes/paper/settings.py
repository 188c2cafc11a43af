"""What the paper runs, as frozen values: models, tasks, methods, batch sizes and hyperparameters.

A value that the paper does not state is marked NOT STATED, with what is taken instead; README.md says why.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, final

TABLES: Final = (2, 3, 4, 5, 6)
TASKS: Final = ("tinygsm8k", "math500", "minerva", "amc23", "gpqa-diamond")  # in the order of the columns
ABLATED: Final = "math500"  # the task of table 3
SPARSITY: Final = "0.5"
BATCH_SIZES: Final = (1, 4, 8, 16)  # of tables 4 to 6
BATCH_SIZE: Final = 4  # of tables 2 and 3
DENSE_BATCH_SIZE: Final = 8  # of the dense model and Wanda, in every table
GRIFFIN_BATCH_SIZE: Final = BATCH_SIZE  # NOT STATED
LONGEST_ANSWER: Final = 16_000  # new tokens
DTYPE: Final = "bfloat16"  # NOT STATED
BENCH_PROMPT: Final = 128  # tokens; NOT STATED
BENCH_NEW: Final = 128  # new tokens; NOT STATED
BENCH_REPEATS: Final = 5  # NOT STATED
TIMED: Final = ("griffin", "teal", "bap")  # beside dense, in tables 5 and 6


@final
@dataclass(frozen=True)
class Model:
    """A model of the paper."""

    name: str  # as --model takes it; also the name of its shape in `regrow bench --shape`
    hub: str
    speeds: int  # the table that prints its decoding speeds

    @property
    def title(self) -> str:
        """The name of the model without its owner, as the paper prints it."""
        return self.hub.rsplit("/", 1)[-1]


QWEN: Final = Model("qwen-7b", "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", 5)
LLAMA: Final = Model("llama-8b", "deepseek-ai/DeepSeek-R1-Distill-Llama-8B", 6)
MODELS: Final = {model.name: model for model in (QWEN, LLAMA)}


@final
@dataclass(frozen=True)
class Calibration:
    """The C4 text that a method is calibrated on: sequences of so many tokens."""

    sequences: int
    length: int = 2048  # stated for Wanda


CALIBRATIONS: Final = {
    "teal": Calibration(sequences=10),  # NOT STATED
    "wanda": Calibration(sequences=128),  # NOT STATED
}


@final
@dataclass(frozen=True)
class Schedule:
    """Hyperparameters of Batch-wise Adaptive Pruning, in decode steps."""

    init_steps: int = 64
    explore_steps: int = 2
    period: int = 20


USUAL: Final = Schedule()
SCHEDULES: Final = (  # the rows of table 3, each once
    Schedule(init_steps=0),
    Schedule(init_steps=32),
    USUAL,
    Schedule(init_steps=128),
    Schedule(explore_steps=1),
    Schedule(explore_steps=4),
    Schedule(period=10),
    Schedule(period=30),
)


@final
@dataclass(frozen=True)
class Cell:
    """One method at one batch size on one model. `schedule`: for `bap` alone."""

    model: Model
    method: str
    batch_size: int
    schedule: Schedule | None = None


def cells(tables: Iterable[int], models: Iterable[Model]) -> dict[Cell, tuple[str, ...]]:
    """Returns the cells of these tables for these models, each once, with the tasks that it answers."""
    found: dict[Cell, set[str]] = {}
    chosen, asked = list(models), set(tables)
    for table in TABLES:
        for model in chosen if table in asked else ():
            for cell, tasks in _of(table, model):
                found.setdefault(cell, set()).update(tasks)
    return {cell: tuple(task for task in TASKS if task in tasks) for cell, tasks in found.items()}


def _of(table: int, model: Model) -> Iterator[tuple[Cell, tuple[str, ...]]]:
    """Yields the cells of a table that answers questions. Tables 5 and 6 are speeds alone."""
    if table == 3 and model is QWEN:
        for schedule in SCHEDULES:
            yield Cell(model, "bap", BATCH_SIZE, schedule), (ABLATED,)
    if table in (2, 4):
        yield Cell(model, "dense", DENSE_BATCH_SIZE), TASKS
        yield Cell(model, "wanda", DENSE_BATCH_SIZE), TASKS
        yield Cell(model, "griffin", GRIFFIN_BATCH_SIZE), TASKS
        for size in (BATCH_SIZE,) if table == 2 else BATCH_SIZES:
            yield Cell(model, "teal", size), TASKS
            yield Cell(model, "bap", size, USUAL), TASKS
