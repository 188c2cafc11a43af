"""Which of torch's products a decode step of one row runs through on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch

MEASURED: Final = ("AVX512",)  # kinds of CPU


@contextmanager
def products_for(rows: int, device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Within it, bfloat16 weights meet a single row in torch's own product, which reads them faster than oneDNN's, made for many rows
    (`docs/performance.md`). The setting is the process's."""
    onednn: Any = torch.backends.mkldnn
    before = onednn.enabled
    if rows > 1 or (device.type, dtype) != ("cpu", torch.bfloat16) or torch.backends.cpu.get_cpu_capability() not in MEASURED or not before:
        yield
        return
    onednn.enabled = False
    try:
        yield
    finally:
        onednn.enabled = before
