"""Choices and defaults in help texts.

They are read from their registries only when help is shown, because the registries import torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import partial

_PLACE = re.compile(r"\{(\w+)\}")


def fill(text: str) -> str:
    """Replaces each `{name}` in the text by the choices of that name."""
    return _replaced(text, lambda name: ", ".join(_LISTS[name]()))


def leave_out(text: str) -> str:
    """Replaces each `{name}` in the text by dots."""
    return _replaced(text, lambda _: "...")


def _replaced(text: str, choices: Callable[[str], str]) -> str:
    return _PLACE.sub(lambda place: choices(place[1]) if place[1] in _LISTS else place[0], text)


def _methods() -> Iterable[str]:
    from regrow.method.presets import PRESETS

    return PRESETS


def _aggregates() -> Iterable[str]:
    from regrow.selection.index_set import AGGREGATES

    return AGGREGATES


def _memories() -> Iterable[str]:
    from regrow.selection.index_set import MEMORIES

    return MEMORIES


def _weighings() -> Iterable[str]:
    from regrow.selection.index_set import WEIGHINGS

    return WEIGHINGS


def _joins() -> Iterable[str]:
    from regrow.selection.clock import JOINS

    return JOINS


def _drafts() -> Iterable[str]:
    from regrow.decoding.drafts.names import AUTO, DRAFTS

    return AUTO, *DRAFTS


def _shapes() -> Iterable[str]:
    from regrow.bench.shapes import SHAPES

    return SHAPES


def _dtypes() -> Iterable[str]:
    from regrow.models import DTYPES

    return DTYPES


def _weights() -> Iterable[str]:
    from regrow.models import WEIGHTS

    return WEIGHTS


def _tasks() -> Iterable[str]:
    from regrow.evaluation.tasks import TASKS

    return TASKS


def _matches() -> Iterable[str]:
    from regrow.evaluation.tasks.own_questions import MATCHES

    return MATCHES


def _default(parameter: str) -> Iterable[str]:
    """Returns the default of a parameter of Batch-wise Adaptive Pruning."""
    from regrow.method.presets import parameters

    return [str(parameters("bap")[parameter])]


_LISTS: dict[str, Callable[[], Iterable[str]]] = {
    "methods": _methods,
    "aggregates": _aggregates,
    "memories": _memories,
    "weighings": _weighings,
    "dtypes": _dtypes,
    "drafts": _drafts,
    "joins": _joins,
    "weights": _weights,
    "shapes": _shapes,
    "tasks": _tasks,
    "matches": _matches,
    **{
        name: partial(_default, name)
        for name in ("sparsity", "init_steps", "explore_steps", "period", "aggregate", "memory", "decay")
    },
}
