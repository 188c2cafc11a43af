"""Time between marks, without a stop of the device."""

from __future__ import annotations

import time
from typing import final

import torch


@final
class Clock:
    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._began = self._now()
        self._marks: list[tuple[str, float | torch.cuda.Event]] = []

    def mark(self, what: str) -> None:
        """What has just ended."""
        self._marks.append((what, self._now()))

    def spans(self) -> list[tuple[str, float]]:
        """Each mark with the seconds since the one before it."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        moments = [self._began, *(moment for _, moment in self._marks)]
        return [
            (what, _seconds(before, after))
            for (what, _), before, after in zip(self._marks, moments, moments[1:], strict=False)
        ]

    def _now(self) -> float | torch.cuda.Event:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event


def _seconds(before: float | torch.cuda.Event, after: float | torch.cuda.Event) -> float:
    if isinstance(before, float):
        assert isinstance(after, float)
        return after - before
    assert isinstance(after, torch.cuda.Event)
    seconds: float = before.elapsed_time(after) / 1e3
    return seconds
