"""All graders by name. A new grader needs a file in this folder and an entry here."""

from __future__ import annotations

from typing import Final

from regrow.errors import require_one_of
from regrow.evaluation.graders.choice import Choice
from regrow.evaluation.graders.exact import Exact
from regrow.evaluation.graders.exercises import Exercises
from regrow.evaluation.graders.grader import Grader, OneMark
from regrow.evaluation.graders.mathematics import Mathematics
from regrow.evaluation.graders.none import NoGrader
from regrow.evaluation.graders.number import Number

# Graders that can take any time and memory. A judge runs each of their scores in a process of its own.
BOUNDED: Final[dict[str, OneMark]] = {grader.name: grader for grader in (Mathematics(),)}

GRADERS: Final[dict[str, Grader]] = {
    **{grader.name: grader for grader in (Exercises(), Number(), Choice(), Exact(), NoGrader())},
    **BOUNDED,
}


def find(name: str) -> Grader:
    """Returns the grader called `name`. Raises UsageError for an unknown name."""
    require_one_of(GRADERS, grader=name)
    return GRADERS[name]
