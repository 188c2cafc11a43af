"""Progress without a terminal."""

from __future__ import annotations

import os
import re
import sys
from contextlib import suppress
from io import StringIO

import pytest

from regrow.cli.bar import SECONDS_BETWEEN_LINES, Bar
from regrow.cli.terminal import say


def _lines(monkeypatch: pytest.MonkeyPatch, seconds_a_step: float, steps: int) -> list[str]:
    """Returns the lines that a bar of ten steps prints at this speed."""
    now, stream = [0.0], StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with Bar(lambda: now[0]) as bar:
        bar.begin("decoding", 10)
        for step in range(1, steps + 1):
            now[0] += seconds_a_step
            bar.show(step, f"{step} tokens")
    return stream.getvalue().splitlines()


def test_long_work_says_how_far_it_is_and_how_long_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    said = _lines(monkeypatch, SECONDS_BETWEEN_LINES / 2, 4)
    assert said == [
        "regrow: decoding: 2 tokens (10.0 s so far, about 40.0 s left)",
        "regrow: decoding: 4 tokens (20.0 s so far, about 30.0 s left)",
    ]


def test_quick_work_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _lines(monkeypatch, SECONDS_BETWEEN_LINES / 11, 10) == []


def test_the_end_has_no_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (
        _lines(monkeypatch, SECONDS_BETWEEN_LINES, 10)[-1]
        == "regrow: decoding: 10 tokens (1 min 40 s so far)"
    )


def test_a_stream_that_takes_no_more_stops_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("builtins.print", full)
    assert _lines(monkeypatch, SECONDS_BETWEEN_LINES, 3) == []


def test_every_batch_that_ends_has_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    with Bar(lambda: now[0]) as bar:
        bar.begin("batches", 3)
        for done in (1, 2, 3):
            now[0] += 2
            bar.ended(done, f"{done} of 3")
    assert capsys.readouterr().err.splitlines() == [
        "regrow: batches: 1 of 3 (2.0 s so far, about 4.0 s left)",
        "regrow: batches: 2 of 3 (4.0 s so far, about 2.0 s left)",
        "regrow: batches: 3 of 3 (6.0 s so far)",
    ]


def test_what_was_complete_before_took_no_time(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    with Bar(lambda: now[0]) as bar:
        bar.begin("batches", 60)
        bar.skip(9)
        now[0] = 2.0
        bar.ended(10, "10 of 60")
    assert capsys.readouterr().err == "regrow: batches: 10 of 60 (2.0 s so far, about 1 min 40 s left)\n"


def test_a_line_stands_above_the_bar_of_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal, each line ends before the bar is drawn again below it."""
    leader, follower = os.openpty()
    with os.fdopen(follower, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setenv("TERM", "xterm")
        with Bar() as bar:
            bar.begin("batches", 2)
            say("one sentence")
            bar.show(1, "1 of 2")
        say("after it")
    drawn = b""
    with suppress(OSError):  # what was written has been read
        while part := os.read(leader, 1 << 16):
            drawn += part
    os.close(leader)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn.decode())
    assert "\r\nregrow: one sentence" in plain or re.search(r"(^|\r)regrow: one sentence *\r\n", plain)
    assert plain.rstrip().endswith("regrow: after it")
