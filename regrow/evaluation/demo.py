"""What the demo runs: exercises answered with one method, and the answers marked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch

from regrow.bundled.problems import Exercise
from regrow.decoding.loop import Progress
from regrow.hosts.generate import generate
from regrow.method.dense import Dense
from regrow.method.presets import make
from regrow.models import Loaded, encode
from regrow.report import Report

SLACK = 1.25  # an answer that goes wrong may be longer than the solution
Watch = Callable[[int], Callable[[Progress], None]]  # the limit of tokens -> what is told every step


@final
@dataclass(frozen=True)
class Run:
    label: str
    texts: list[str]  # one an exercise
    marks: list[tuple[bool, ...]]  # of its problems
    report: Report

    @property
    def right(self) -> int:
        return sum(sum(row) for row in self.marks)

    @property
    def problems(self) -> int:
        return sum(len(row) for row in self.marks)


def warm_up(loaded: Loaded, exercises: Sequence[Exercise]) -> None:
    """A few steps, so that the first run does not pay for the process's start. One thread from here on: with a model this small,
    threads spend much of a busy machine's time waiting for each other."""
    torch.set_num_threads(1)
    ids, mask = encode(loaded, [exercise.prompt for exercise in exercises])
    generate(loaded.model, ids, mask, method=Dense(), max_new_tokens=4, do_sample=False)


def answer(
    loaded: Loaded,
    exercises: Sequence[Exercise],
    method: str,
    parameters: Mapping[str, str | int],
    watch: Watch,
) -> Run:
    ids, mask = encode(loaded, [exercise.prompt for exercise in exercises])
    limit = _limit(loaded, exercises, ids.shape[1])
    done = generate(
        loaded.model,
        ids,
        mask,
        method=make(method, **parameters),
        watch=watch(limit),
        max_new_tokens=limit,
        do_sample=False,
    )
    decode = loaded.tokenizer.decode
    texts = [
        str(decode(row, skip_special_tokens=True, clean_up_tokenization_spaces=False)) for row in done.tokens
    ]
    marks = [exercise.marks(text) for exercise, text in zip(exercises, texts, strict=True)]
    label = f"{method} {float(parameters['sparsity']) * 100:g} %" if "sparsity" in parameters else method
    return Run(label, texts, marks, done.report)


def _limit(loaded: Loaded, exercises: Sequence[Exercise], prompt: int) -> int:
    """Enough for the longest solution and some slack, as far as the context allows."""
    longest = max(len(loaded.tokenizer(exercise.solution)["input_ids"]) for exercise in exercises)
    wanted = int(SLACK * longest)
    return wanted if loaded.context is None else min(wanted, loaded.context - prompt)
