"""What is said while a model is loaded."""

from __future__ import annotations

import pytest
import torch

from regrow import kernels
from regrow.cli import load_model

SAID = (
    "regrow: the bundled model is in bfloat16, for which this CPU has no instructions; "
    "with several prompts, --dtype float32 is faster, and takes twice the memory\n"
)


@pytest.mark.parametrize(
    ("dtype", "instructions", "large", "said"),
    [
        ("auto", False, True, SAID),
        ("auto", True, True, ""),
        ("auto", False, False, ""),
        ("bfloat16", False, True, ""),  # asked for
        ("float32", False, True, ""),
    ],
)
def test_a_dtype_that_this_cpu_has_no_instructions_for(
    dtype: str,
    instructions: bool,
    large: bool,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(kernels, "has_instructions", lambda dtype: dtype == torch.float32 or instructions)
    if large:
        monkeypatch.setattr(load_model, "_LARGE", 10**6)
    load_model.load(dtype=dtype, device="cpu")
    assert capsys.readouterr().err == said
