from __future__ import annotations

from typing import Any

import pytest
import torch

from model_files import one_sentence
from regrow.errors import UsageError
from regrow.models import find_device

ABSENT = [
    "cuda:9",
    "cuda:-1",
    "xpu",
    "hpu",
    "vulkan",
    "ipu",
    "xla",
    "privateuseone",
    "warp",
    "",
    "CPU",
    "cpu:",
    "meta",
    "x" * 300,
    3,
    None,
]


@pytest.mark.parametrize(
    "device",
    [*ABSENT, pytest.param("mps", marks=pytest.mark.skipif(torch.mps.is_available(), reason="MPS is here"))],
)
def test_devices_that_are_not_there_are_refused_in_one_short_sentence(device: Any) -> None:
    with pytest.raises(
        UsageError, match=r"^device .* cannot be used here: .*; use --device cpu or auto$"
    ) as refusal:
        find_device(device)
    assert len(one_sentence(refusal.value)) < 160


def test_a_gpu_that_is_there_and_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(
            "CUDA error: out of memory. Compile with TORCH_USE_CUDA_DSA.\nFor debugging consider\n"
            + "x" * 1000
        )

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch, "empty", fail)
    with pytest.raises(UsageError) as refusal:
        find_device("cuda:1")
    assert (
        str(refusal.value)
        == "device 'cuda:1' cannot be used here: CUDA error: out of memory; use --device cpu or auto"
    )


def test_devices_that_are_there_are_found() -> None:
    assert find_device("cpu") == torch.device("cpu")
    assert find_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
