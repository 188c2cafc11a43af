"""Registry of all methods by name. The CLI choices, tables and test matrices read it."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

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


def parameters(name: str) -> dict[str, Any]:
    """Returns the parameter names and defaults of a method. Raises UsageError on an unknown name."""
    require_one_of(METHODS, method=name)
    return {field.name: field.default for field in fields(METHODS[name])}  # type: ignore[arg-type]


def make(name: str, /, **given: Any) -> Method:
    """Returns the method called `name` with the given parameters.

    Raises UsageError on an unknown name, an unknown parameter or an invalid value.
    """
    known = parameters(name)
    unknown = [key for key in given if key not in known]
    if unknown:
        takes = f"it takes {', '.join(known)}" if known else "it takes none"
        raise UsageError(f"method {name!r} has no parameter {unknown[0]!r}; {takes}")
    return METHODS[name](**given)
