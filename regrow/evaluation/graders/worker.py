"""The child process of a judge: reads requests from its input, a line of JSON each, and writes the scores.

It limits itself: a timer of the kernel ends the process when a score has used its CPU time, also inside C
code. Standard output carries nothing but replies: what libraries print is discarded.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import sys
import warnings
from typing import BinaryIO, Final

_MEMORY: Final = 4 * 1024**3  # bytes of address space


def main() -> None:
    """Answers requests until the input ends."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    logging.disable()
    warnings.simplefilter("ignore")
    _limit_memory()
    try:
        # The first answer must not wait for the import.
        import math_verify  # type: ignore[import-untyped]  # noqa: F401

        from regrow.evaluation.graders import BOUNDED
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent tells the user
        _reply(replies, {"error": f"{type(error).__name__}: {error}"})
        return
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # it ends the process
    _reply(replies, {"ready": True})
    for line in sys.stdin.buffer:
        request = json.loads(line)
        grader = BOUNDED[request["grader"]]
        score = grader.strict if request["score"] == "strict" else grader.paper
        signal.setitimer(signal.ITIMER_PROF, request["seconds"])
        try:
            right: bool | None = score(request["gold"], request["text"])
        except (MemoryError, RecursionError):
            right = None
        signal.setitimer(signal.ITIMER_PROF, 0)
        _reply(replies, {"right": right})


def _limit_memory() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    limit = _MEMORY if most == resource.RLIM_INFINITY else min(_MEMORY, most)
    resource.setrlimit(resource.RLIMIT_AS, (limit, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def _reply(replies: BinaryIO, reply: dict[str, object]) -> None:
    replies.write(json.dumps(reply).encode() + b"\n")
    replies.flush()


if __name__ == "__main__":
    main()
