"""Times between marks, without a synchronisation at each mark."""

from __future__ import annotations

import time
from typing import final

import torch


@final
class Clock:
    """Times the phases of a run, by CUDA events on a GPU and by the host's clock elsewhere.

    The first phase begins when the clock is made.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._began = self._now()
        self._marks: list[tuple[str, float | torch.cuda.Event]] = []

    def mark(self, phase: str) -> None:
        """Marks the end of a phase."""
        self._marks.append((phase, self._now()))

    def spans(self) -> list[tuple[str, float]]:
        """Returns each phase with its seconds. Synchronises the device."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        moments = [self._began, *(moment for _, moment in self._marks)]
        return [
            (phase, _seconds(before, after))
            for (phase, _), before, after in zip(self._marks, moments, moments[1:], strict=False)
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
