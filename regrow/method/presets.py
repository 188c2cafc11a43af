"""Registries of all methods by name. The CLI choices, tables and test matrices read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, final

from regrow.errors import UsageError, require_one_of
from regrow.method.base import Method
from regrow.method.batchwise_adaptive import BatchwiseAdaptive
from regrow.method.cats import CATS
from regrow.method.dense import Dense
from regrow.method.every_token import EveryToken
from regrow.method.griffin import Griffin
from regrow.method.magnitude import Magnitude
from regrow.method.random_neurons import RandomNeurons
from regrow.method.sparsegpt import SparseGPT
from regrow.method.teal import TEAL
from regrow.method.wanda import Wanda
from regrow.method.wina import WINA

_ALL: tuple[type[Method], ...] = (
    Dense,
    BatchwiseAdaptive,
    EveryToken,
    Griffin,
    TEAL,
    WINA,
    CATS,
    Wanda,
    SparseGPT,
    Magnitude,
    RandomNeurons,
)
METHODS: dict[str, type[Method]] = {method.name: method for method in _ALL}


@final
@dataclass(frozen=True)
class Preset:
    """What a name stands for: a class, and the parameters in which its defaults differ from the class's.

    A method that is made by such a name is an ordinary value of the class, and describes itself as one.
    """

    method: type[Method]
    summary: str
    source: str
    changes: Mapping[str, Any]


# Every name that is accepted for a method: those of the classes, and further ones with other defaults.
PRESETS: dict[str, Preset] = {
    name: Preset(method, method.summary, method.source, {}) for name, method in METHODS.items()
} | {
    "bap-weighed": Preset(
        BatchwiseAdaptive,
        "bap with scores weighed by the norms of down's columns",
        "as bap; the weighing is Regrow's own",
        {"weigh": "down"},
    ),
}


def parameters(name: str) -> dict[str, Any]:
    """Returns the parameter names and defaults of a method. Raises UsageError on an unknown name."""
    require_one_of(PRESETS, method=name)
    preset = PRESETS[name]
    defaults = {field.name: field.default for field in fields(preset.method)}  # type: ignore[arg-type]
    return {**defaults, **preset.changes}


def make(name: str, /, **given: Any) -> Method:
    """Returns the method called `name` with the given parameters.

    Raises UsageError on an unknown name, an unknown parameter or an invalid value.
    """
    known = parameters(name)
    unknown = [key for key in given if key not in known]
    if unknown:
        takes = f"it takes {', '.join(known)}" if known else "it takes none"
        raise UsageError(f"method {name!r} has no parameter {unknown[0]!r}; {takes}")
    return PRESETS[name].method(**{**PRESETS[name].changes, **given})
