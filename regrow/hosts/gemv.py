"""Which of torch's products a decode step of one row runs through on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def products_for(rows: int, device: torch.device) -> Iterator[None]:
    """Within it, bfloat16 weights meet a single row in torch's own product: it reads them at up to twice the speed of oneDNN's, which is
    made for many rows (`docs/performance.md`). With other dtypes it changes nothing. The setting is the process's."""
    onednn: Any = torch.backends.mkldnn
    before = onednn.enabled
    measured = device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX512"
    if rows > 1 or not measured or not before:
        yield
        return
    onednn.enabled = False
    try:
        yield
    finally:
        onednn.enabled = before
