"""What a decode step calls, noted once and replayed without Python (CPU).

Between two kernels of a step the interpreter touches more memory than they do, and the weights have driven all of it out of the caches.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, final

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from regrow.kernels.cpu_library import FLOAT, library, noting

_ATEN: Final[Any] = torch.ops.aten
_ALLOCATE: Final = (_ATEN.empty.memory_format, _ATEN.empty_like.default, _ATEN.new_empty.default)
_WRITE: Final = (_ATEN.copy_.default, _ATEN.index_select.out)  # that are replayed, each by its own call


class UnrecordableError(Exception):
    """A step does something that no replay would do."""


@final
class _Call(ctypes.Structure):
    """Call of `cpu.cpp`."""

    _fields_ = [("kernel", ctypes.c_void_p), ("words", ctypes.c_void_p)]


@final
class Recording(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes kernels and writes in the place of running them. What they read and write is kept for as long as this is."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._parts: list[list[tuple[int, list[int]]] | Callable[[], object]] = []  # calls in a row, or one of torch's operations
        self._held: list[object] = []

    def note(self, kernel: int | None, kinds: tuple[type, ...], *arguments: Any) -> None:
        """A call of a compiled kernel, whose form that takes words lies at `kernel`."""
        if kernel is None:
            raise UnrecordableError("a kernel that takes no words")
        if not self._parts or not isinstance(self._parts[-1], list):
            self._parts.append([])
        calls = self._parts[-1]
        assert isinstance(calls, list)
        self._held.extend(argument for argument in arguments if isinstance(argument, ctypes.Structure))
        calls.append((kernel, [_word(kind, argument) for kind, argument in zip(kinds, arguments, strict=True)]))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _WRITE:
            self._parts.append(partial(func, *args, **kwargs))
            return kwargs.get("out", args[0])
        if not func.is_view and func not in _ALLOCATE:
            raise UnrecordableError(str(func))
        self._held.append(result := func(*args, **kwargs))
        return result

    def replay(self) -> Replay:
        parts = [_in_one(part) if isinstance(part, list) else part for part in self._parts]
        return Replay(parts, self._held)


@final
class Replay:
    """Runs what was recorded, in which everything keeps its address."""

    def __init__(self, parts: Sequence[Callable[[], object]], held: Sequence[object]) -> None:
        self._parts, self._held = parts, held

    def __call__(self) -> None:
        for part in self._parts:
            part()


def record(step: Callable[[], Tensor]) -> tuple[Replay, Tensor] | None:
    """What replays a step, and the tensor that replays write its result to; None for a step that cannot be replayed. Nothing is run."""
    recording = Recording()
    try:
        with noting(recording.note), recording:
            result = step()
    except UnrecordableError:
        return None
    return recording.replay(), result


def _in_one(calls: list[tuple[int, list[int]]]) -> Callable[[], object]:
    there = library()
    assert there is not None
    words = [(ctypes.c_uint64 * len(one))(*one) for _, one in calls]
    array = (_Call * len(calls))(*(_Call(kernel, ctypes.addressof(one)) for (kernel, _), one in zip(calls, words, strict=True)))

    def replay() -> None:
        there.replay(array, ctypes.c_long(len(words)))  # `words` stays as long as this does

    return replay


def _word(kind: type, argument: Any) -> int:
    """Sixty-four bits that `from_word` of `cpu.h` reads as the argument."""
    if argument is None:
        return 0
    if isinstance(argument, ctypes.Structure):
        return ctypes.addressof(argument)
    if kind is FLOAT:
        return int.from_bytes(bytes(ctypes.c_float(argument)), "little")
    return int(argument) & (2**64 - 1)
