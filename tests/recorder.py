"""CUDA graphs where there is no GPU."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class Recorder:
    """Stands in for CUDA graphs: each replay runs the recorded step again and writes to the same tensor."""

    def __init__(self) -> None:
        self.recorded = 0
        self.replayed = 0

    def __call__(self, step: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        self.recorded += 1
        result = torch.empty(())

        def replay() -> None:
            self.replayed += 1
            result.set_(step().clone())  # type: ignore[call-overload]

        return replay, result
