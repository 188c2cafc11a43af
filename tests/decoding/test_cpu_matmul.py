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
from regrow.decoding.fused import FusedNetwork
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


@pytest.fixture
def native_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes torch's own matmul the faster one for a single row."""
    monkeypatch.setattr(
        choose_network, "choose_matmul", lambda *_: MatmulChoice("native", "onednn", 1, 0, {})
    )


@pytest.mark.usefixtures("native_alone")
@pytest.mark.parametrize(("rows", "onednn"), [(1, False), (2, True)])
def test_lossless_decoding_takes_it_for_dense_steps_only(
    rows: int, onednn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A check of two drafts has three rows for every sample."""
    seen: list[tuple[int, bool]] = []
    forward = FusedNetwork.forward

    def spied(self: FusedNetwork, planned: Pass, ids: torch.Tensor, **more: Any) -> torch.Tensor:
        if not planned.prompt:
            seen.append((planned.width, torch.backends.mkldnn.enabled))
        return forward(self, planned, ids, **more)

    monkeypatch.setattr(FusedNetwork, "forward", spied)
    asked = arguments(prompts(rows), max_new_tokens=9)
    dear = regrow.Costs(1.0, 0.9, {1: 1.6, 2: 2.2})
    model = build("llama", torch.bfloat16)
    with regrow.prune(model, "dense"):
        model.generate(**asked)  # compares the logits of the fused model first
        seen.clear()
        for how in (regrow.Lossless(regrow.NGram(), costs=dear), regrow.Lossless(regrow.NGram(), 2)):
            model.generate(**asked, lossless=how)
    assert set(seen[:8]) == {(1, onednn)}
    assert (3, True) in seen[8:]
    assert (3, False) not in seen


@pytest.mark.usefixtures("native_alone")
@pytest.mark.parametrize(("rows", "onednn"), [(1, False), (2, True)])
def test_the_loop_takes_it_for_decode_steps_only(
    rows: int, onednn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The matmuls of the prompt, which is long, stay oneDNN's."""
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
