"""GPQA-Diamond: 198 multiple-choice questions of the natural sciences, which the user has to bring.

The dataset is gated, and its questions must not be published in plain text. Prompts and the order of the
choices follow lighteval's, which the paper uses.
"""

from __future__ import annotations

from random import Random
from typing import Final

from regrow.evaluation.tasks.benchmark import Benchmark, Hub
from regrow.evaluation.tasks.rows import Rows, text_field

LETTERS: Final = "ABCD"
SEED: Final = 1234  # of the places of the correct choices
PROMPT: Final = (
    "Answer the following multiple choice question. The last line of your response should be of the "
    "following format: 'Answer: $LETTER' (without quotes) where LETTER is one of ABCD. Think step by step "
    "before answering.\n\n{question}"
)


def _questions(rows: Rows) -> list[tuple[str, str]]:
    """Returns questions with their choices, and the letters of the correct choices.

    The incorrect choices keep their order, and the correct one is inserted at a random place.
    """
    places = Random(SEED)
    return [_question(rows, number, places.randint(0, 3)) for number in range(1, len(rows.rows) + 1)]


def _question(rows: Rows, number: int, place: int) -> tuple[str, str]:
    choices = [text_field(rows, number, f"Incorrect Answer {wrong}").strip() for wrong in (1, 2, 3)]
    choices.insert(place, text_field(rows, number, "Correct Answer").strip())
    lettered = "\n".join(f"{letter}) {choice}" for letter, choice in zip(LETTERS, choices, strict=True))
    return f"{text_field(rows, number, 'Question').strip()}\n\n{lettered}", LETTERS[place]


GPQA_DIAMOND: Final = Benchmark(
    "gpqa-diamond",
    "198 multiple-choice questions of the natural sciences; the dataset is gated",
    198,
    Hub("Idavidrein/gpqa", "gpqa_diamond", "train"),
    "gpqa_diamond.csv",
    _questions,
    template=PROMPT,
    grader="choice",
    sha256="41d1213cd7a4998605a26c2798500652572007161b3a92817ba46b35befcd305",
)
