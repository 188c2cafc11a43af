"""On the CPU, decode steps run through the kernels in Triton's interpreter where a test asks for them."""

from __future__ import annotations

import pytest
import torch

from regrow import kernels


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes the CPU for a GPU when it comes to choosing an implementation."""
    monkeypatch.setattr(kernels, "_on_gpu", lambda x: x.dtype != torch.float64)
