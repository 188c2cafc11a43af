"""Replaces attributes of single instances for a while, and puts the old ones back exactly.

A copy of a patched object is a copy of the original. copy, deepcopy and pickle call `__getstate__`, which
Python looks up on the instance, so a patch answers with the state from before it.
"""

from __future__ import annotations

from copy import copy
from functools import partial
from types import TracebackType
from typing import Any, Final, cast, final

from torch import nn

_ABSENT: Final = object()


@final
class Patch:
    """Replaces instance attributes and remembers how to undo it.

    As a context manager, it restores on leaving, also after an exception.
    """

    def __init__(self) -> None:
        self._undo: list[tuple[dict[str, object], str, object]] = []

    def replace(self, obj: object, name: str, value: object) -> None:
        """Makes `obj.name` be `value` for this instance only.

        Writes to `obj.__dict__` directly, because `setattr` on an nn.Module would register a tensor or a
        module and so change its state_dict. Raises TypeError, with nothing changed, if the class hides the
        instance attribute (a property, `__slots__`).
        """
        attributes = vars(obj)
        before = attributes.get(name, _ABSENT)
        attributes[name] = value
        if getattr(obj, name) is not value:
            _put_back(attributes, name, before)
            raise TypeError(
                f"{type(obj).__name__}.{name} cannot be replaced on an instance: "
                "its class defines it as a property"
            )
        self._undo.append((attributes, name, before))
        self._copies_as_before(obj)

    def replace_parameter(self, module: nn.Module, name: str, value: nn.Parameter) -> None:
        """Makes `value` the module's parameter of that name, until `restore` puts the old one back.

        If the module was moved meanwhile (`model.to(...)`), the old parameter is moved in the same way.
        """
        parameters = cast("dict[str, object]", module._parameters)
        self._undo.append((parameters, name, parameters[name]))
        parameters[name] = value
        self._copies_as_before(module)

    def replace_copying(self, obj: object, value: object) -> None:
        """Makes copy, deepcopy and pickle call `value` for the state of `obj`.

        This must be the last replacement on `obj`.
        """
        attributes = vars(obj)
        self._undo.append((attributes, "__getstate__", attributes.get("__getstate__", _ABSENT)))
        attributes["__getstate__"] = value

    def restore(self) -> None:
        """Undoes every replacement, latest first. A second call does nothing."""
        while self._undo:
            attributes, name, before = self._undo.pop()
            if isinstance(before, nn.Parameter):
                _move(before, attributes.get(name))
            _put_back(attributes, name, before)

    def _copies_as_before(self, obj: object) -> None:
        attributes = vars(obj)
        self._undo.append((attributes, "__getstate__", attributes.get("__getstate__", _ABSENT)))
        attributes["__getstate__"] = partial(self._state_before, obj)

    def _state_before(self, obj: object) -> Any:
        """Returns the state of `obj` for a copy, without any replacement."""
        state = type(obj).__getstate__(obj)
        # A class that keeps its state elsewhere: that state holds no replacement.
        if not isinstance(state, dict):
            return state
        attributes, before = vars(obj), dict(state)
        parameters = attributes.get("_parameters")
        if parameters is not None:
            before["_parameters"] = copy(parameters)
        for changed, name, value in reversed(self._undo):
            if changed is attributes:
                _put_back(before, name, value)
            elif changed is parameters:
                _put_back(before["_parameters"], name, value)
        return before

    def __enter__(self) -> Patch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.restore()


def _put_back(attributes: dict[str, object], name: str, before: object) -> None:
    if before is _ABSENT:
        attributes.pop(name, None)  # the attribute may have been deleted meanwhile
    else:
        attributes[name] = before


def _move(parameter: nn.Parameter, stand_in: object) -> None:
    """Moves a parameter to where `nn.Module.to` moved `stand_in`, which replaced it meanwhile.

    It is never moved to `meta`, which holds no values.
    """
    if isinstance(stand_in, nn.Parameter) and not stand_in.is_meta:
        parameter.data = parameter.data.to(stand_in.device, stand_in.dtype)
