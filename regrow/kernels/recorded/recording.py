"""What a decode step calls, noted once and replayed without Python (CPU).

Between two kernels of a step the interpreter touches more memory than they do, and the weights have driven all of it out of the caches.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, final

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from regrow.kernels.cpu_library import FLOAT, Kernel, library, noting

_ATEN: Final[Any] = torch.ops.aten
_ALLOCATE: Final = (_ATEN.empty.memory_format, _ATEN.empty_like.default, _ATEN.new_empty.default)
_WRITE: Final = (_ATEN.copy_.default, _ATEN.index_select.out)  # that are replayed, each by its own call


class UnrecordableError(Exception):
    """A step does something that no replay would do."""


@final
class _RecordedCall(ctypes.Structure):
    """Call of `cpu.cpp`."""

    _fields_ = [("kernel", ctypes.c_void_p), ("words", ctypes.c_void_p)]


@final
class _Row:
    """Kernels that are called one after another, with nothing of Python's between them."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._calls: list[_RecordedCall] = []
        self._words: list[Any] = []
        self._held: list[object] = []
        self._array: Any = None
        self._seconds: Any = None

    def add(self, kernel: Kernel, dtype: torch.dtype, arguments: Sequence[Any]) -> None:
        """Raises UnrecordableError for a kernel whose arguments cannot be words."""
        address = kernel.words(dtype)
        if address is None:
            raise UnrecordableError(kernel.name)
        numbers = [_word(kind, argument) for kind, argument in zip(kernel.arguments, arguments, strict=True)]
        words = (ctypes.c_uint64 * len(numbers))(*numbers)
        self._names.append(kernel.name)
        self._calls.append(_RecordedCall(address, ctypes.addressof(words)))
        self._words.append(words)
        self._held.extend(argument for argument in arguments if isinstance(argument, ctypes.Structure))

    def clock(self) -> None:
        self._seconds = (ctypes.c_double * len(self._calls))()

    def seconds(self) -> Counter[str]:
        found = Counter[str]()
        for name, seconds in zip(self._names, self._seconds or (), strict=self._seconds is not None):
            found[name] += seconds
        return found

    def __call__(self) -> None:
        if self._array is None:
            self._array = (_RecordedCall * len(self._calls))(*self._calls)
        there = library()
        assert there is not None
        there.replay(self._array, ctypes.c_long(len(self._calls)), self._seconds)


@final
class Replay:
    """Runs what was recorded. Whatever the step reads and writes beside tensors of its own has to keep its address."""

    def __init__(self, parts: Sequence[_Row | Callable[[], object]], held: Sequence[object]) -> None:
        """`held` lives as long as this does."""
        self._parts, self._held = parts, held

    def __call__(self) -> None:
        for part in self._parts:
            part()

    def clock(self) -> None:
        """From now on the seconds of every kernel are counted, from zero."""
        for part in self._parts:
            if isinstance(part, _Row):
                part.clock()

    def seconds(self) -> Mapping[str, float]:
        """By the names of kernels, since the clock was set; torch's own operations are not clocked."""
        found = Counter[str]()
        for part in self._parts:
            if isinstance(part, _Row):
                found.update(part.seconds())
        return found


@final
class _Recording(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes kernels and writes in the place of running them. Tensors that the step makes are kept for as long as this is."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._parts: list[_Row | Callable[[], object]] = []  # kernels in a row, or one of torch's operations
        self._held: list[object] = []

    def note(self, kernel: Kernel, dtype: torch.dtype, *arguments: Any) -> None:
        row = self._parts[-1] if self._parts else None
        if not isinstance(row, _Row):
            self._parts.append(row := _Row())
        row.add(kernel, dtype, arguments)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _WRITE:
            self._parts.append(partial(func, *args, **kwargs))
            return kwargs.get("out", args[0])
        if not func.is_view and func not in _ALLOCATE:
            raise UnrecordableError(str(func))
        result = func(*args, **kwargs)
        if func.is_view and not _homes(result) <= _homes(
            args
        ):  # in inference mode `contiguous` calls itself a view
            raise UnrecordableError(str(func))
        self._held.append(result)
        return result

    def replay(self) -> Replay:
        return Replay(self._parts, self._held)


def record(step: Callable[[], Tensor]) -> tuple[Replay, Tensor] | None:
    """What replays a step, and the tensor that replays write its result to; None for a step that cannot be replayed. Nothing is run."""
    recording = _Recording()
    try:
        with noting(recording.note), recording:
            result = step()
    except UnrecordableError:
        return None
    return recording.replay(), result


def _homes(of: object) -> set[int]:
    """The addresses of the storages of all tensors in there."""
    return {leaf.untyped_storage().data_ptr() for leaf in tree_leaves(of) if isinstance(leaf, Tensor)}


def _word(kind: type, argument: Any) -> int:
    """Sixty-four bits that `from_word` of `cpu.h` reads as the argument."""
    if argument is None:
        return 0
    if isinstance(argument, ctypes.Structure):
        return ctypes.addressof(argument)
    if kind is FLOAT:
        return int.from_bytes(bytes(ctypes.c_float(argument)), "little")
    return int(argument) & (2**64 - 1)
