"""Grades within limits of time and memory.

Comparing two answers as mathematics can take any time and memory, also inside C code that no exception
reaches. Such graders therefore run in a child process, which may die.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Final, Self, final

from regrow.errors import RegrowError
from regrow.evaluation.graders import BOUNDED, find
from regrow.records import Grade, Mark

SECONDS: Final = 10.0  # CPU time for one score of one answer
_PATIENCE: Final = 30  # wall clock that the child may take for a second of CPU time, on a busy machine
_START: Final = 120.0  # seconds of wall clock that a child may take to start
_WORKER: Final = "regrow.evaluation.graders.worker"


@final
class Judge:
    """Grades completions, and survives those that cannot be graded. Threads may share a judge.

    Each score of an answer has `seconds` of CPU time. CPU time, unlike wall clock, hardly depends on what
    else the machine does. A score that is not finished by then, or whose process dies, counts as wrong, and
    the grade says `timed_out`. The child starts when an answer needs it, and ends with the context.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        self._seconds = seconds
        self._child: _Child | None = None
        self._lock = Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._stop()

    def grade(self, grader: str, gold: str, text: str) -> Grade:
        """Grades a completion with the grader of this name.

        Raises UsageError for an unknown grader, RegrowError if the child process cannot be started.
        """
        if grader not in BOUNDED:
            return find(grader).grade(gold, text)
        with self._lock:
            strict, paper = (self._score(grader, score, gold, text) for score in ("strict", "paper"))
        mark = Mark("", strict is True, paper is True)
        return Grade((mark,), timed_out=strict is None or paper is None)

    def check_gold(self, grader: str, gold: str) -> str | None:
        """Returns what is wrong with a gold answer, or None if it equals itself."""
        chosen = find(grader)
        if problem := chosen.check_gold(gold):
            return problem
        grade = self.grade(grader, gold, chosen.restate(gold))
        return None if grade.right == grade.total else "the gold answer is not found equal to itself"

    def _score(self, grader: str, score: str, gold: str, text: str) -> bool | None:
        """Returns one score of one answer; None if the child did not finish it."""
        if self._child is None:
            self._child = _Child()
        request = {"grader": grader, "score": score, "gold": gold, "text": text, "seconds": self._seconds}
        try:
            reply = self._child.ask(request, self._seconds * _PATIENCE)
        except BaseException:  # also an interrupt: the reply to this request must not answer the next one
            self._stop()
            raise
        if reply is None:
            self._stop()
            return None
        right = reply["right"]
        return right if right is None else bool(right)

    def _stop(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child = None


@final
class _Child:
    """A worker process, which answers one line of JSON with another."""

    def __init__(self) -> None:
        """Starts the worker. Raises RegrowError if it does not become ready."""
        # The child imports what this process would: its path replaces the one that Python would guess.
        path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", _WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # an interrupt from the keyboard is for this process
        )
        ready = self._read(_START)
        if ready != {"ready": True}:
            self.kill()
            reason = (ready or {}).get("error", "it ended before it was ready")
            raise RegrowError(
                f"the process that grades cannot be started: {reason}; "
                "check that math-verify and sympy are installed as Regrow requires"
            )

    def ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any] | None:
        """Returns the reply; None if the child dies, or does not reply within the seconds of wall clock."""
        pipe = self._process.stdin
        assert pipe
        try:
            pipe.write(json.dumps(request).encode() + b"\n")
            pipe.flush()
        except BrokenPipeError:
            return None
        return self._read(seconds)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe
            try:
                pipe.close()
            except BrokenPipeError:  # an unsent request
                continue

    def _read(self, seconds: float) -> dict[str, Any] | None:
        """Reads a line; None if there is none within the seconds. A reply is short, and written at once."""
        pipe = self._process.stdout
        assert pipe
        if not select.select([pipe], [], [], seconds)[0]:
            return None
        line = pipe.readline()
        reply: dict[str, Any] | None = json.loads(line) if line.endswith(b"\n") else None
        return reply
