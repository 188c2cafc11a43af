"""Runs the GPU code paths on a CPU, in Triton's interpreter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from recorder import Recorder
from regrow import kernels
from regrow.decoding import choose_network
from regrow.decoding.choose_network import Networks


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Makes decode steps use the Triton kernels and a stand-in for CUDA graphs within the context."""
    made = Networks.__init__

    def make(self: Networks, model: Any, *more: Any) -> None:
        made(self, model, *more)
        self._kernels = True

    recorded = patch.object(choose_network, "CudaRecorder", Recorder)
    with patch.object(Networks, "__init__", make), recorded, patch.object(kernels, "_on_gpu", lambda _: True):
        yield
