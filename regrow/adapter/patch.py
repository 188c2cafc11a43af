"""Instance attributes replaced for a while and put back exactly."""

from __future__ import annotations

from types import TracebackType
from typing import Final, cast, final

from torch import nn

_ABSENT: Final = object()


@final
class Patch:
    """Replaces instance attributes and remembers how to undo it; as a context manager it restores on leaving, also after an exception."""

    def __init__(self) -> None:
        self._undo: list[tuple[dict[str, object], str, object]] = []

    def replace(self, obj: object, name: str, value: object) -> None:
        """Makes `obj.name` be `value` for this instance only.

        Writes to `obj.__dict__` itself, because `setattr` on an nn.Module would register a tensor or a module and so change its state_dict.
        Raises TypeError, with nothing changed, where the class hides the instance attribute (a property, `__slots__`).
        """
        attributes = vars(obj)
        before = attributes.get(name, _ABSENT)
        attributes[name] = value
        if getattr(obj, name) is not value:
            _put_back(attributes, name, before)
            raise TypeError(f"{type(obj).__name__}.{name} cannot be replaced on an instance: its class defines it as a property")
        self._undo.append((attributes, name, before))

    def replace_parameter(self, module: nn.Module, name: str, value: nn.Parameter) -> None:
        """Makes `value` the module's parameter of that name; the one there was is kept aside and put back."""
        parameters = cast("dict[str, object]", module._parameters)
        self._undo.append((parameters, name, parameters[name]))
        parameters[name] = value

    def restore(self) -> None:
        """Undoes every replacement, latest first; a second call does nothing."""
        while self._undo:
            _put_back(*self._undo.pop())

    def __enter__(self) -> Patch:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.restore()


def _put_back(attributes: dict[str, object], name: str, before: object) -> None:
    if before is _ABSENT:
        attributes.pop(name, None)  # somebody may have deleted it meanwhile: absent either way
    else:
        attributes[name] = before
