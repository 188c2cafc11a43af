"""Answers that must be the gold text."""

from __future__ import annotations

import re
from typing import ClassVar, final

from regrow.evaluation.graders.grader import OneMark
from regrow.evaluation.graders.stated_answer import after_thinking, last_boxed

_ANSWER = re.compile(r"\banswer\s*:[\s*]*([^\n]*)", re.IGNORECASE)
_EDGES = "\"'`“”\u2018\u2019*$. \t\r\n"


@final
class Exact(OneMark):
    r"""Compares texts: the last `\boxed`, else the line after the last "Answer:", else the last line.

    Case, runs of blanks, and quotes, asterisks, full stops and dollar signs around the answer do not count.
    """

    name: ClassVar[str] = "exact"
    summary: ClassVar[str] = "the same text: the last boxed one, else after 'Answer:', else the last line"

    def strict(self, gold: str, text: str) -> bool:
        return _plain(gold) == _plain(_stated(after_thinking(text)))

    def check_gold(self, gold: str) -> str | None:
        if _plain(gold):
            return None
        return super().check_gold(gold) or f"the gold answer {gold!r} is nothing but quotes and full stops"

    def restate(self, gold: str) -> str:
        return gold if "\\boxed" in gold else f"Answer: {' '.join(gold.split())}"


def _stated(text: str) -> str:
    boxed = last_boxed(text)
    if boxed is not None:
        return boxed
    answers = _ANSWER.findall(text)
    if answers and answers[-1].strip():
        return str(answers[-1])
    return next((line for line in reversed(text.splitlines()) if line.strip()), "")


def _plain(text: str) -> str:
    words = re.sub(r"^\\text\s*\{([^{}]*)\}$", r"\1", text.strip()).strip(_EDGES)
    return " ".join(words.casefold().split())
