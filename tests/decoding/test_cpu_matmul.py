"""Only CPU decode steps of one row use torch's own matmul, if it was measured to be faster."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import torch

import regrow
from batches import arguments, prompts
from families import build
from regrow.core import Pass
from regrow.decoding import choose_network
from regrow.decoding.network import StockNetwork
from regrow.kernels import MatmulChoice, native


def test_the_setting_comes_back_after_an_error_and_is_never_switched_on() -> None:
    with suppress(KeyError), native(True):
        assert not torch.backends.mkldnn.enabled
        raise KeyError
    assert torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = False
    try:
        with native(False):
            assert not torch.backends.mkldnn.enabled
        with native(True):
            assert not torch.backends.mkldnn.enabled
        assert not torch.backends.mkldnn.enabled
    finally:
        torch.backends.mkldnn.enabled = True


@pytest.mark.parametrize(("rows", "onednn"), [(1, False), (2, True)])
def test_the_loop_takes_it_for_decode_steps_only(
    rows: int, onednn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The matmuls of the prompt, which is long, stay oneDNN's."""
    monkeypatch.setattr(
        choose_network, "choose_matmul", lambda *_: MatmulChoice("native", "onednn", 1, 0, {})
    )
    seen: list[tuple[int, bool]] = []
    forward = StockNetwork.forward

    def spied(self: StockNetwork, planned: Pass, ids: torch.Tensor, **more: Any) -> torch.Tensor:
        seen.append((planned.width, torch.backends.mkldnn.enabled))
        return forward(self, planned, ids, **more)

    monkeypatch.setattr(StockNetwork, "forward", spied)
    encoded = arguments(prompts(rows))
    regrow.generate(
        build("gemma2", torch.bfloat16),
        encoded["input_ids"],
        encoded["attention_mask"],
        max_new_tokens=3,
        do_sample=False,
    )
    assert seen == [(encoded["input_ids"].shape[1], True), (1, onednn), (1, onednn)]
