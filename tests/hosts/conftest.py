from __future__ import annotations

import pytest
from transformers import PreTrainedModel

from families import build
from kernels.compiled_here import COMPILED
from laid_out_models import LAID_OUT, OURS, measured
from regrow import kernels
from regrow.kernels import cpu_library


@pytest.fixture(scope="module")
def shared() -> PreTrainedModel:
    """Return a model that the tests of a module share. Every test must leave it unchanged."""
    return build("qwen2")


@pytest.fixture(params=["no compiler", "oneDNN", pytest.param("our own product", marks=COMPILED)])
def laid_out_with(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Pretend that laid-out weights are fastest, with the matmul that the parameter names."""
    measured(monkeypatch, OURS if request.param == "our own product" else LAID_OUT)
    if request.param == "no compiler":
        monkeypatch.setattr(kernels, "library", lambda: None)
        monkeypatch.setattr(cpu_library.Kernel, "get", lambda self, dtype: None)
