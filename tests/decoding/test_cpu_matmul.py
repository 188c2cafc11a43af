"""A decode step of one row on a CPU runs through torch's own product, and nothing else does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import regrow
from batches import arguments, prompts
from families import build
from regrow.core import Pass
from regrow.decoding.cpu_matmul import products_for
from regrow.decoding.network import StockNetwork

CPU = torch.device("cpu")


@pytest.fixture
def _measured_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")


@pytest.mark.usefixtures("_measured_kind")
@pytest.mark.parametrize(
    ("rows", "device", "dtype", "onednn"),
    [
        (1, "cpu", torch.bfloat16, False),
        (2, "cpu", torch.bfloat16, True),
        (1, "cuda", torch.bfloat16, True),
        (1, "cpu", torch.float32, True),
    ],
)
def test_one_row_on_a_cpu_goes_around_onednn(rows: int, device: str, dtype: torch.dtype, onednn: bool) -> None:
    with products_for(rows, torch.device(device), dtype):
        assert torch.backends.mkldnn.enabled is onednn
    assert torch.backends.mkldnn.enabled


def test_a_kind_of_cpu_that_was_not_measured_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    with products_for(1, CPU, torch.bfloat16):
        assert torch.backends.mkldnn.enabled


@pytest.mark.usefixtures("_measured_kind")
def test_the_setting_comes_back_after_an_error_and_is_never_switched_on() -> None:
    with pytest.raises(KeyError), products_for(1, CPU, torch.bfloat16):
        raise KeyError
    assert torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = False
    try:
        with products_for(4, CPU, torch.bfloat16):
            assert not torch.backends.mkldnn.enabled
        assert not torch.backends.mkldnn.enabled
    finally:
        torch.backends.mkldnn.enabled = True


@pytest.mark.usefixtures("_measured_kind")
def test_the_loop_takes_it_for_decode_steps_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The product of the prompt, which is long, stays oneDNN's."""
    seen: list[tuple[int, bool]] = []
    forward = StockNetwork.forward

    def spied(self: StockNetwork, planned: Pass, ids: Tensor, **more: Any) -> Tensor:
        seen.append((planned.width, torch.backends.mkldnn.enabled))
        return forward(self, planned, ids, **more)

    monkeypatch.setattr(StockNetwork, "forward", spied)
    ids, mask = arguments(prompts(1))["input_ids"], None
    regrow.generate(build("gemma2", torch.bfloat16), ids, mask, max_new_tokens=3, do_sample=False)
    assert seen == [(ids.shape[1], True), (1, False), (1, False)]
