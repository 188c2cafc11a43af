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
    """Return a model for tests that leave it as it was, which is what they are about."""
    return build("qwen2")


@pytest.fixture(params=["no compiler", "oneDNN", pytest.param("our own product", marks=COMPILED)])
def laid_out_with(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Weights are laid out, and multiplied with by this product."""
    measured(monkeypatch, OURS if request.param == "our own product" else LAID_OUT)
    if request.param == "no compiler":
        monkeypatch.setattr(kernels, "library", lambda: None)
        monkeypatch.setattr(cpu_library.Kernel, "get", lambda self, dtype: None)
