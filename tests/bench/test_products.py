"""Times are not looked at, only that both products were timed and the setting is what it was."""

from __future__ import annotations

import pytest
import torch

from regrow.bench import products
from regrow.bench.products import measure


def test_both_products_are_measured_and_the_setting_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    monkeypatch.setattr(products, "linear", lambda *_: seen.append(torch.backends.mkldnn.enabled))
    found = measure(torch.bfloat16, 2, [torch.randn(64, 32).bfloat16()] * 3, repeats=2)
    assert (found["dtype"], found["rows"]) == ("bfloat16", 2)
    assert all(speed > 0 for speed in found["gb_per_second"].values())
    assert seen == 3 * (3 * [False] + 3 * [True])
    assert torch.backends.mkldnn.enabled
