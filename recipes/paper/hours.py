"""How long the tables take on one H200: questions, assumed lengths of answers, and the paper's own speeds.

hours = batches x longest answer of a batch [tokens] x batch size / decoding speed [tokens/s] / 3600

A batch is decoded until its longest answer ends, so its longest answer counts for every row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, final

from regrow import paper_results
from regrow.evaluation.tasks import TASKS as SOURCES
from regrow.evaluation.tasks.benchmark import Benchmark
from settings import LONGEST_ANSWER, Cell

# Tokens of the longest answer of a batch, on average over the batches, by batch size. ASSUMED: neither the
# paper nor a run of ours says how long answers are.
ASSUMED_LONGEST: Final = {1: 4000, 4: 8000, 8: 10_000, 16: 12_000}
_TITLES: Final = {"dense": "dense", "wanda": "dense", "griffin": "GRIFFIN", "teal": "TEAL", "bap": "BAP"}


@final
@dataclass(frozen=True)
class Estimate:
    """The arithmetic of one cell."""

    cell: Cell
    questions: int
    batches: int
    tokens_per_second: float  # of the whole batch

    @property
    def hours(self) -> float:
        return self._with(ASSUMED_LONGEST[self.cell.batch_size])

    @property
    def most(self) -> float:
        """Hours if an answer of every batch is cut off at the limit."""
        return self._with(LONGEST_ANSWER)

    @property
    def line(self) -> str:
        cell, longest = self.cell, ASSUMED_LONGEST[self.cell.batch_size]
        schedule = cell.schedule
        named = (
            f"{cell.method} {schedule.init_steps}/{schedule.explore_steps}/{schedule.period}"
            if schedule
            else cell.method
        )
        return (
            f"{cell.model.name:<9} {named:<14} batch {cell.batch_size:>2}: {self.questions:>4} questions = "
            f"{self.batches:>4} batches x {longest:>5} tokens x {cell.batch_size:>2} rows / "
            f"{self.tokens_per_second:>6.1f} tokens/s = {self.hours:>4.1f} h, at most {self.most:>4.1f} h"
        )

    def _with(self, longest: int) -> float:
        return self.batches * longest * self.cell.batch_size / self.tokens_per_second / 3600


def estimates(cells: Mapping[Cell, Sequence[str]]) -> list[Estimate]:
    return [
        Estimate(
            cell,
            sum(map(_questions, tasks)),
            sum(-(-_questions(task) // cell.batch_size) for task in tasks),
            _speed(cell),
        )
        for cell, tasks in cells.items()
    ]


def told(found: Sequence[Estimate]) -> Iterator[str]:
    """Yields the lines of an estimate, with its assumptions and its sum."""
    yield "Estimated hours on one H200, without calibrating, loading and `regrow bench`, which take minutes:"
    yield from (one.line for one in found)
    yield (
        f"together {sum(one.hours for one in found):.0f} h, "
        f"and {sum(one.most for one in found):.0f} h if every batch reaches {LONGEST_ANSWER} tokens"
    )
    lengths = ", ".join(f"{tokens} at batch {size}" for size, tokens in ASSUMED_LONGEST.items())
    yield f"Assumed, not measured: the longest answer of a batch has on average {lengths} tokens."
    yield (
        "Speeds are those that the paper prints (tables 3, 5 and 6; Wanda's is the dense one), for contexts "
        "whose length it does not state; long contexts are slower."
    )


def _questions(task: str) -> int:
    source = SOURCES[task]
    assert isinstance(source, Benchmark)
    return source.count


def _speed(cell: Cell) -> float:
    """Returns the tokens per second that the paper prints for a cell."""
    ablation = paper_results.results()["ablation"]
    for row in ablation["rows"] if cell.schedule and cell.batch_size == ablation["batch_size"] else ():
        schedule = row["init_steps"], row["explore_steps"], row["period"]
        wanted = cell.schedule.init_steps, cell.schedule.explore_steps, cell.schedule.period
        if (ablation["model"], schedule) == (cell.model.title, wanted):
            return float(row["tokens_per_second"])
    wanted_cell = cell.model.title, _TITLES[cell.method], cell.batch_size
    return next(
        speed.tokens_per_second
        for speed in paper_results.speeds()
        if (speed.model, speed.method, speed.batch_size) == wanted_cell
    )
