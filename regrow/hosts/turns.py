"""Locks for models with several callers: one caller at a time uses a model, the others wait for their turn.

The lock of a model is kept beside the model, not in its attributes, because attributes are copied and
pickled. Calls are served in the order of their arrival. Calls on different models never wait for each other.

A call on the same model from inside a generation (by a streamer, a stopping criterion or `watch`) cannot wait
until that generation ends, so it is refused. A deadlock is also possible between threads: the generation
waits for another thread, and that thread calls the model. A deadlock through the locks of several models is
detected at once. Any other deadlock cannot be detected for certain. Therefore, if a generation has been
blocked in the same wait for other threads (`join`, `Future.result`, a full queue) for PATIENCE seconds, the
calls that wait for the generation are refused as well.
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

PATIENCE = 10.0  # seconds that a generation may be blocked in one wait
LOOK = 0.5  # seconds between two checks of whether the generation is blocked
BLOCKED: Final = (
    "waits for a generation on the same model which itself waits for another thread; "
    "let no callback of a generation wait for a call on the same model"
)


@final
@dataclass(eq=False)
class _Call:
    """A call that holds the lock of a model, or waits for it."""

    thread: int


@final
class Turn:
    """The lock of one model, with a first-come-first-served queue of calls."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._calls: deque[_Call] = deque()  # the first call holds the lock
        self._afterwards: list[Callable[[], None]] = []

    @contextmanager
    def take(self, what: str) -> Iterator[None]:
        """Holds the lock while the context lasts. Raises UsageError if waiting for the lock would never end.

        `what` names the call in the error message.
        """
        call = _Call(threading.get_ident())
        try:
            with self._changed:
                self._queue(call, what)
            yield
        finally:
            self._release(call)

    def leave(self, restore: Callable[[], None], what: str) -> None:
        """Calls `restore` as soon as no other call holds the lock.

        If waiting is impossible (see `take`) or interrupted, the exception is raised here, and the call that
        holds the lock calls `restore` when it ends.
        """
        with self._changed:
            self._afterwards.append(restore)
        with self.take(what):
            pass

    def _queue(self, call: _Call, what: str) -> None:
        if any(other.thread == call.thread for other in self._calls):
            raise UsageError(
                f"{what} was called from inside a generation on the same model (by its streamer, a stopping "
                "criterion, a logits processor or a callback), which it would disturb; "
                "call it before or after that generation, or on a copy of the model"
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
            if first not in frames:  # this process is a fork, and the thread exists only in its parent
                self._calls.popleft()
                continue
            frame, before = _blocked(frames[first]), frame
            if frame is None or frame is not before:
                since = time.monotonic()
            elif time.monotonic() - since > PATIENCE:
                raise UsageError(f"{what} {BLOCKED}")

    def _waits_for(self, thread: int) -> bool:
        """Returns True if the call that holds the lock waits, via other models, for a call of `thread`."""
        turn, seen = self, set[int]()
        while (first := turn._first()) is not None and first not in seen:
            if first == thread:
                return True
            seen.add(first)
            turn = _WAITING.get(first, _NOBODY)
        return False

    def _first(self) -> int | None:
        """Returns the thread whose call holds the lock. The result may be outdated: no lock is taken."""
        return next((call.thread for call in list(self._calls)), None)

    def _release(self, call: _Call) -> None:
        with self._changed:
            first = bool(self._calls) and self._calls[0] is call
            try:
                while first and self._afterwards:
                    self._afterwards.pop()()
            finally:
                with suppress(ValueError):  # a refused call is not in the queue
                    self._calls.remove(call)
                self._changed.notify_all()


def _blocked(frame: FrameType) -> FrameType | None:
    """Returns the frame if it belongs to Python's `threading`, that is, if its thread waits for others."""
    return frame if frame.f_code.co_filename == threading.__file__ else None


_WAITING: dict[int, Turn] = {}  # the lock that each thread waits for
_NOBODY: Final = Turn()
_TURNS: WeakKeyDictionary[nn.Module, Turn] = WeakKeyDictionary()
_NEW = threading.RLock()  # reentrant, because a finaliser may call `turn_of` meanwhile


def turn_of(model: nn.Module) -> Turn:
    """Returns the lock of the model; every call for the same model returns the same lock."""
    with _NEW:
        return _TURNS.setdefault(model, Turn())
