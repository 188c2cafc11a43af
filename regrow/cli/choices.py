"""The lists of choices in help texts, read from their registries when the help is shown: the registries import torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

_PLACE = re.compile(r"\{(\w+)\}")


def fill(text: str) -> str:
    """`text` with each `{name}` replaced by the choices of that name."""
    return _replaced(text, lambda name: ", ".join(_LISTS[name]()))


def leave_out(text: str) -> str:
    """`text` with dots where a list would stand."""
    return _replaced(text, lambda _: "...")


def _replaced(text: str, choices: Callable[[str], str]) -> str:
    return _PLACE.sub(lambda place: choices(place[1]) if place[1] in _LISTS else place[0], text)


def _methods() -> Iterable[str]:
    from regrow.method.presets import METHODS

    return METHODS


def _aggregates() -> Iterable[str]:
    from regrow.selection.index_set import AGGREGATES

    return AGGREGATES


def _memories() -> Iterable[str]:
    from regrow.selection.index_set import MEMORIES

    return MEMORIES


def _shapes() -> Iterable[str]:
    from regrow.bench.shapes import SHAPES

    return SHAPES


def _dtypes() -> Iterable[str]:
    from regrow.models import DTYPES

    return DTYPES


def _tasks() -> Iterable[str]:
    from regrow.evaluation.tasks import TASKS

    return TASKS


_LISTS: dict[str, Callable[[], Iterable[str]]] = {
    "methods": _methods,
    "aggregates": _aggregates,
    "memories": _memories,
    "dtypes": _dtypes,
    "shapes": _shapes,
    "tasks": _tasks,
}
