"""Numbers that the device counts and the host reads without making either wait."""

from __future__ import annotations

from typing import Any, Final, final

import torch
from torch import Tensor

CHECK_EVERY: Final = 8  # steps between two reads on a GPU


@final
class Flags:
    """Reads flags or counts [n] after some steps.

    On a GPU they are copied asynchronously and read at the next look.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._copy: Tensor | None = None  # pinned, on the host; None before the first read
        self._arrived: torch.cuda.Event | None = None

    def due(self, step: int) -> bool:
        """Returns True if the flags should be read after this step. On a CPU that is every step."""
        return not self._on_gpu or step % CHECK_EVERY == 0

    def read(self, flags: Tensor, *, now: bool) -> list[Any] | None:
        """Returns the current values [n] if `now` or on a CPU, which synchronises with a GPU.

        Otherwise returns the values of the previous read, or None at the first one.
        """
        if not self._on_gpu or now:
            found: list[Any] = flags.tolist()
            return found
        before = None
        if self._copy is None:
            self._copy = torch.empty(flags.shape, dtype=flags.dtype, pin_memory=True)
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        elif self._arrived is not None:
            self._arrived.synchronize()  # waits for a copy that began some steps ago
            before = self._copy.tolist()
        self._copy.copy_(flags, non_blocking=True)
        assert self._arrived is not None
        self._arrived.record()
        return before
