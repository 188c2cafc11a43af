"""Runs of the demo: answers exercises with one method, and marks the answers."""

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

SLACK = 1.25  # a wrong answer may be longer than the solution
# Takes the token limit of a run, and returns the callback for its decode steps.
Watch = Callable[[int], Callable[[Progress], None]]


@final
@dataclass(frozen=True)
class Run:
    """The answers of one method to the exercises, with their marks."""

    label: str
    tokens: list[list[int]]  # the new tokens of each exercise, EOS included
    texts: list[str]  # one per exercise
    marks: list[tuple[bool, ...]]  # per exercise: whether each of its problems is right
    report: Report
    lossless: bool = False

    @property
    def right(self) -> int:
        """Number of problems that are right, over all exercises."""
        return sum(sum(row) for row in self.marks)

    @property
    def problems(self) -> int:
        """Number of problems, over all exercises."""
        return sum(len(row) for row in self.marks)

    def same_answers(self, other: Run) -> int:
        """Returns how many exercises have the same tokens in both runs."""
        return sum(own == theirs for own, theirs in zip(self.tokens, other.tokens, strict=True))


def warm_up(loaded: Loaded, exercises: Sequence[Exercise]) -> None:
    """Decodes a few steps, so that the first run does not pay for one-time setup.

    From here on the process uses one thread: with a model this small, threads mostly wait for each other on
    a busy machine.
    """
    torch.set_num_threads(1)
    ids, mask = encode(loaded, [exercise.prompt for exercise in exercises])
    generate(loaded.model, ids, mask, method=Dense(), max_new_tokens=4, do_sample=False)


def answer(
    loaded: Loaded,
    exercises: Sequence[Exercise],
    method: str,
    parameters: Mapping[str, str | int],
    watch: Watch,
    *,
    lossless: bool = False,
) -> Run:
    """Answers the exercises greedily with one method, and marks the answers."""
    ids, mask = encode(loaded, [exercise.prompt for exercise in exercises])
    limit = _limit(loaded, exercises, ids.shape[1])
    done = generate(
        loaded.model,
        ids,
        mask,
        method=make(method, **parameters),
        watch=watch(limit),
        lossless=lossless,
        max_new_tokens=limit,
        do_sample=False,
    )
    texts = [loaded.decode(row) for row in done.tokens]
    marks = [exercise.marks(text) for exercise, text in zip(exercises, texts, strict=True)]
    name = label(method, parameters, lossless=lossless)
    return Run(name, done.tokens, texts, marks, done.report, lossless)


def label(method: str, parameters: Mapping[str, str | int], *, lossless: bool) -> str:
    """Returns the name of a run: its method, with its sparsity if it has one, or "lossless"."""
    if lossless:
        return "lossless"
    return f"{method} {float(parameters['sparsity']) * 100:g} %" if "sparsity" in parameters else method


def _limit(loaded: Loaded, exercises: Sequence[Exercise], prompt: int) -> int:
    """Returns the token limit: the longest solution and some slack, as far as the context allows.

    `prompt`: tokens of the longest prompt.
    """
    longest = max(len(loaded.tokenizer(exercise.solution)["input_ids"]) for exercise in exercises)
    wanted = int(SLACK * longest)
    return wanted if loaded.context is None else min(wanted, loaded.context - prompt)
