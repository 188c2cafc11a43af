"""One model, many callers: whoever uses a model's session has it alone, and the others wait for their turn.

A model has one lock, which lies beside the model and not in its attributes, since those are copied and
pickled. Calls are served in the order in which they came. Calls on different models never wait for each
other.

A call on the same model from inside a generation (by a streamer, a criterion, `watch`) cannot wait for that
generation to end and is refused. If another thread calls while the generation waits for that thread, neither
can ever go on. Where they wait for each other through the locks of several models, this is seen at once.
Otherwise it cannot be seen for certain: once a generation has stood still in one wait for other threads
(`join`, `Future.result`, a full queue) for PATIENCE seconds, the calls that wait for it are refused as well.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Final, final
from weakref import WeakKeyDictionary

from torch import nn

from regrow.errors import UsageError

PATIENCE = 10.0  # seconds
LOOK = 0.5  # seconds between two looks at what the generation does
BLOCKED: Final = (
    "waits for a generation on the same model which itself waits for another thread; let no callback of a generation wait "
    "for a call on the same model"
)


@final
@dataclass(eq=False)
class _Call:
    """A call that has the model, or waits for it."""

    thread: int


@final
class Turn:
    """The lock of one model."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._calls: deque[_Call] = deque()  # the first one has the model
        self._afterwards: list[Callable[[], None]] = []

    @contextmanager
    def take(self, what: str) -> Iterator[None]:
        """The model is this call's alone while the context lasts. Raises UsageError where waiting for it would never end."""
        call = _Call(threading.get_ident())
        try:
            with self._changed:
                self._queue(call, what)
            yield
        finally:
            self._release(call)

    def leave(self, restore: Callable[[], None], what: str) -> None:
        """Calls `restore` when the model is free. Where it cannot be waited for (see `take`, or the wait is interrupted) the call that has
        the model does it at its end."""
        with self._changed:
            self._afterwards.append(restore)
        with self.take(what):
            pass

    def _queue(self, call: _Call, what: str) -> None:
        if any(other.thread == call.thread for other in self._calls):
            raise UsageError(
                f"{what} was called from inside a generation on the same model (by its streamer, a stopping criterion, a logits "
                "processor or a callback), which it would disturb; call it before or after that generation, or on a copy of the model"
            )
        self._calls.append(call)
        _WAITING[call.thread] = self
        try:
            self._wait(call, what)
        finally:
            del _WAITING[call.thread]

    def _wait(self, call: _Call, what: str) -> None:
        frame, since = None, time.monotonic()
        while self._calls[0] is not call:
            if self._waits_for(call.thread):
                raise UsageError(f"{what} {BLOCKED}")
            self._changed.wait(LOOK)
            frames, first = sys._current_frames(), self._calls[0].thread
            if first not in frames:  # it ended with its process: this is a fork
                self._calls.popleft()
                continue
            frame, before = _blocked(frames[first]), frame
            if frame is None or frame is not before:
                since = time.monotonic()
            elif time.monotonic() - since > PATIENCE:
                raise UsageError(f"{what} {BLOCKED}")

    def _waits_for(self, thread: int) -> bool:
        """Whether the call that has the model waits, through other models, for a call of this thread."""
        turn, seen = self, set[int]()
        while (first := turn._first()) is not None and first not in seen:
            if first == thread:
                return True
            seen.add(first)
            turn = _WAITING.get(first, _NOBODY)
        return False

    def _first(self) -> int | None:
        """The thread whose call has the model, as far as can be seen without the lock."""
        return next((call.thread for call in list(self._calls)), None)

    def _release(self, call: _Call) -> None:
        with self._changed:
            first = bool(self._calls) and self._calls[0] is call
            try:
                while first and self._afterwards:
                    self._afterwards.pop()()
            finally:
                with suppress(ValueError):  # it was refused
                    self._calls.remove(call)
                self._changed.notify_all()


def _blocked(frame: FrameType) -> FrameType | None:
    """The frame in which a thread waits for others through Python's `threading`, if it does."""
    return frame if frame.f_code.co_filename == threading.__file__ else None


_WAITING: dict[int, Turn] = {}  # by thread
_NOBODY: Final = Turn()
_TURNS: WeakKeyDictionary[nn.Module, Turn] = WeakKeyDictionary()
_NEW = threading.RLock()  # a finaliser may come in between


def turn_of(model: nn.Module) -> Turn:
    with _NEW:
        return _TURNS.setdefault(model, Turn())
