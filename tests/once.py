"""Work that tests would repeat thousands of times, done once in a process."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import cache
from inspect import getmembers
from typing import Any

from transformers import PreTrainedModel
from triton.language.core import is_builtin
from triton.runtime import interpreter

from regrow.calibration.calibration import fingerprint
from regrow.decoding import choose_network

_LARGE = 1_000_000  # parameters; below, a check is quick, and tests of it use models of that size


def find_functions_of_triton_once() -> None:
    """Lets Triton's interpreter keep what it finds in its language, which it searches at every launch."""

    @cache
    def functions(package: Any) -> list[tuple[str, Any]]:
        return [(name, member) for name, member in getmembers(package) if is_builtin(member)]

    def patch(package: Any, builder: Any, scope: Any) -> None:
        for name, member in functions(package):
            interpreter._patch_attr(package, name, member, builder, scope)

    interpreter._patch_builtin = patch


def compare_equal_models_once() -> None:
    """Lets models of equal weights and structure, as commands load them again and again, share a verdict."""
    compare, found = choose_network._remembered, {}

    def remembered(verdicts: Any, model: PreTrainedModel, state: Hashable, test: Callable[[], bool]) -> bool:
        if model.num_parameters() < _LARGE:
            return compare(verdicts, model, state, test)
        key = id(verdicts), fingerprint(model), state
        if key not in found:
            found[key] = compare(verdicts, model, state, test)
        return found[key]

    choose_network._remembered = remembered
