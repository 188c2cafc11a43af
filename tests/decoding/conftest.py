"""Lets a test run decode steps through the Triton kernels on a CPU, in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch

from regrow import kernels


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the choice of an implementation treat the CPU as a GPU."""
    monkeypatch.setattr(kernels, "_on_gpu", lambda x: x.dtype != torch.float64)
