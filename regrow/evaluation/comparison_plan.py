"""What a comparison runs, how much of it is left, and about how long that takes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from regrow.evaluation.grid import Cell
from regrow.evaluation.results import divergence_file, records_file
from regrow.evaluation.tasks.task import Task
from regrow.hosts.engine import Engine
from regrow.kernels import repeatable_matmul
from regrow.models import Loaded, encode
from regrow.record_file import recorded

TIMED_TOKENS: Final = 10  # new tokens of the generation that is timed for an estimate


@final
@dataclass(frozen=True)
class ComparisonPlan:
    """What a comparison runs, apart from its cells."""

    directory: Path
    task: Task
    prompts: int  # number of prompts to answer
    traced: int  # number of prompts for the divergence from dense
    max_new_tokens: int  # of an answer
    traced_tokens: int  # of a dense answer along which divergence is measured; its logits are kept in memory
    chat: bool
    text: Path | None = None  # calibration text; None: see regrow.calibration.text.sequences
    # Limits on the calibration text. None: the method's default.
    calibration_sequences: int | None = None
    calibration_length: int | None = None  # tokens of a sequence


@final
@dataclass(frozen=True)
class Left:
    """The batches that are left to run, by batch size."""

    traced: Counter[int]  # dense traces and divergences, which run with the weights as they are stored
    answered: Counter[int]  # answers, whose engine may move the weights into another layout

    @property
    def total(self) -> int:
        return self.traced.total() + self.answered.total()


def batches_to_run(plan: ComparisonPlan, cells: Sequence[Cell]) -> Left:
    """Counts the batches of traces, divergences and answers that are left to run."""
    left = Left(Counter(), Counter())
    untraced = [cell.batch_size for cell in cells if not divergence_file(plan.directory, cell).exists()]
    for size in (*set(untraced), *untraced):
        left.traced[size] += -(-plan.traced // size)
    for cell in cells:
        planned = -(-plan.prompts // cell.batch_size)
        left.answered[cell.batch_size] += planned - recorded(records_file(plan.directory, cell))
    return left


def estimate(loaded: Loaded, plan: ComparisonPlan, left: Left) -> float:
    """Returns how many seconds these batches take if every answer runs to its limit of tokens.

    Times a short dense generation at each batch size. Calibrations are not counted.
    """
    return sum(
        count * _seconds(loaded, plan, size, most, owns_model=owns_model)
        for counts, most, owns_model in (
            (left.traced, plan.traced_tokens, False),
            (left.answered, plan.max_new_tokens, True),
        )
        for size, count in counts.items()
        if count
    )


def _seconds(loaded: Loaded, plan: ComparisonPlan, batch_size: int, most: int, *, owns_model: bool) -> float:
    """Returns the estimated seconds of one batch whose answers have `most` tokens."""
    items = plan.task.first(min(batch_size, plan.prompts)).items
    ids, mask = encode(loaded, [item.prompt for item in items], chat=plan.chat, system=plan.task.system)
    short, long = min(2, most), min(TIMED_TOKENS, most)
    with repeatable_matmul(), Engine(loaded.model, owns_model=owns_model) as engine:

        def timed(tokens: int) -> float:
            began = time.perf_counter()
            limits = {"max_new_tokens": tokens, "min_new_tokens": tokens, **loaded.beside_prompts}
            engine.generate(ids, mask, do_sample=False, **limits)
            return time.perf_counter() - began

        timed(short)  # warm-up: the first batch also pays for one-time setup
        prompt, whole = (min(timed(tokens) for _ in range(2)) for tokens in (short, long))
    return prompt + max(whole - prompt, 0.0) / max(long - short, 1) * (most - short)
