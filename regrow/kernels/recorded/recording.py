"""Records the kernel calls of a decode step once, and replays them without Python (CPU).

Between two kernels of a step the Python interpreter touches more memory than the kernels do, and the weights
have evicted all of that memory from the CPU's caches.
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

from regrow.kernels.cpu_library import FLOAT, Kernel, intercepting, library

_ATEN: Final[Any] = torch.ops.aten
_ALLOCATE: Final = (_ATEN.empty.memory_format, _ATEN.empty_like.default, _ATEN.new_empty.default)
_WRITE: Final = (_ATEN.copy_.default, _ATEN.index_select.out)  # replayed as calls of torch


class UnrecordableError(Exception):
    """A step does something that a replay would not repeat."""


@final
class _RecordedCall(ctypes.Structure):
    """Mirrors struct `Call` of `cpu.cpp`."""

    _fields_ = [("kernel", ctypes.c_void_p), ("words", ctypes.c_void_p)]


@final
class _KernelSequence:
    """Consecutive kernel calls, replayed by one call into C++."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._calls: list[_RecordedCall] = []
        self._words: list[Any] = []
        self._held: list[object] = []
        self._array: Any = None
        self._seconds: Any = None

    def add(self, kernel: Kernel, dtype: torch.dtype, arguments: Sequence[Any]) -> None:
        """Raises UnrecordableError if the kernel has no entry point that takes words."""
        address = kernel.words_address(dtype)
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
        loaded = library()
        assert loaded is not None
        loaded.replay(self._array, ctypes.c_long(len(self._calls)), self._seconds)


@final
class Replay:
    """Repeats a recorded step.

    Tensors that the step did not create itself, inputs and outputs alike, must keep their addresses.
    """

    def __init__(
        self, parts: Sequence[_KernelSequence | Callable[[], object]], held: Sequence[object]
    ) -> None:
        """`held` are the objects to keep alive for as long as the replay."""
        self._parts, self._held = parts, held

    def __call__(self) -> None:
        for part in self._parts:
            part()

    def clock(self) -> None:
        """Starts timing every kernel, from zero."""
        for part in self._parts:
            if isinstance(part, _KernelSequence):
                part.clock()

    def seconds(self) -> Mapping[str, float]:
        """Returns seconds by kernel name since `clock`. Torch's own operations are not timed."""
        found = Counter[str]()
        for part in self._parts:
            if isinstance(part, _KernelSequence):
                found.update(part.seconds())
        return found


@final
class _Recording(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records kernel calls and torch's writes instead of running them.

    It keeps all tensors that the step creates, because the recorded calls hold their addresses.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._parts: list[_KernelSequence | Callable[[], object]] = []  # a callable is a torch operation
        self._held: list[object] = []

    def note(self, kernel: Kernel, dtype: torch.dtype, *arguments: Any) -> None:
        last = self._parts[-1] if self._parts else None
        if not isinstance(last, _KernelSequence):
            self._parts.append(last := _KernelSequence())
        last.add(kernel, dtype, arguments)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _WRITE:
            self._parts.append(partial(func, *args, **kwargs))
            return kwargs.get("out", args[0])
        if not func.is_view and func not in _ALLOCATE:
            raise UnrecordableError(str(func))
        result = func(*args, **kwargs)
        # In inference mode `contiguous` reports itself as a view even if it has copied.
        if func.is_view and not _storages(result) <= _storages(args):
            raise UnrecordableError(str(func))
        self._held.append(result)
        return result

    def replay(self) -> Replay:
        return Replay(self._parts, self._held)


def record(step: Callable[[], Tensor]) -> tuple[Replay, Tensor] | None:
    """Records `step` without running it.

    Returns the replay and the tensor that holds the step's result after a replay, or None if the step cannot
    be replayed.
    """
    recording = _Recording()
    try:
        with intercepting(recording.note), recording:
            result = step()
    except UnrecordableError:
        return None
    return recording.replay(), result


def _storages(tree: object) -> set[int]:
    """Returns the storage addresses of all tensors in a nested structure."""
    return {leaf.untyped_storage().data_ptr() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)}


def _word(kind: type, argument: Any) -> int:
    """Encodes an argument as the 64-bit word that `from_word` of `cpu.h` decodes."""
    if argument is None:
        return 0
    if isinstance(argument, ctypes.Structure):
        return ctypes.addressof(argument)
    if kind is FLOAT:
        return int.from_bytes(bytes(ctypes.c_float(argument)), "little")
    return int(argument) & (2**64 - 1)
