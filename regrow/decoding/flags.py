"""Flags that the device sets and the host reads, without either waiting for the other."""

from __future__ import annotations

from typing import Final, final

import torch
from torch import Tensor

CHECK_EVERY: Final = 8  # steps between looks where the answer has to come from another device


@final
class Flags:
    def __init__(self, device: torch.device) -> None:
        self._far = device.type == "cuda"
        self._copy: Tensor | None = None  # on the host, pinned; None: nothing is under way
        self._arrived: torch.cuda.Event | None = None

    def due(self, step: int) -> bool:
        """Whether to look after this step: on the CPU always."""
        return not self._far or step % CHECK_EVERY == 0

    def read(self, flags: Tensor, *, now: bool) -> list[bool] | None:
        """The flags [B] bool of now or, from another device, those of the look before this one; None where there was none."""
        if not self._far or now:
            found: list[bool] = flags.tolist()
            return found
        before = None
        if self._copy is None:
            self._copy = torch.empty(flags.shape, dtype=torch.bool, pin_memory=True)
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        elif self._arrived is not None:
            self._arrived.synchronize()  # of a copy some steps ago
            before = self._copy.tolist()
        self._copy.copy_(flags, non_blocking=True)
        assert self._arrived is not None
        self._arrived.record()
        return before
