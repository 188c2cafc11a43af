from __future__ import annotations

from dataclasses import replace

import pytest

from regrow.cli.summaries import _method
from samples import CONFIG


@pytest.mark.parametrize(
    ("method", "params", "shown"),
    [
        ("dense", {}, "dense"),
        ("griffin", {"sparsity": 0.5}, "griffin (sparsity=0.5)"),
        ("bap", {"sparsity": 0.7, "init_steps": 16, "period": 20, "memory": "max"}, "bap (sparsity=0.7, init_steps=16)"),
        ("teal", {"sparsity": 0.5, "ffn_only": True, "prompt": "dense"}, "teal (sparsity=0.5, ffn_only=True)"),
        ("wina", {"sparsity": 0.5, "prompt": "second_half"}, "wina (sparsity=0.5, prompt=second_half)"),
        ("of another version", {"sparsity": 0.5, "x": 1}, "of another version (sparsity=0.5, x=1)"),
    ],
)
def test_a_run_is_named_by_what_is_not_the_default(method: str, params: dict[str, object], shown: str) -> None:
    assert _method(replace(CONFIG, method=method, params=params)) == shown
