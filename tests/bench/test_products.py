from __future__ import annotations

import json

import pytest

from regrow.bench import products, step_parts
from regrow.bench.shapes import SHAPES, Shape
from regrow.kernels import Products


def test_the_last_line_is_what_was_measured(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(products, "products", lambda *_: Products("native", "laid out", 4, 0, {"onednn 1": 19.0}))
    monkeypatch.setattr(products, "bandwidth", lambda _: {"read": 34e9})
    products.main()
    *lines, last = capsys.readouterr().out.splitlines()
    found = json.loads(last)
    assert found["products"]["float32"] == {"alone": "native", "several": "laid out", "fewest": 4, "most": 0, "speed": {"onednn 1": 19.0}}
    assert found["read_gb_per_second"] == 34
    assert "bfloat16: a single row takes native, more take laid out" in lines


def test_parts_of_a_step_add_up(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(SHAPES, "tiny", Shape("tiny", "qwen2", 2, 32, 48, 4, 2, 8, 100, True))  # type: ignore[misc]
    monkeypatch.setattr(step_parts, "bandwidth", lambda _: {"read": 34e9})
    step_parts.main(rows=(1, 2), contexts=(40,), new=6, name="tiny")
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["shape"] == "tiny"
    for parts in found["steps"].values():
        assert 0 < parts["matmuls"] < parts["step"]
        assert 0 < parts["attention"] < parts["step"]
    assert set(found["attention"]) == {"1 x 40", "8 x 40"}
    assert all(one["gb_per_second"] > 0 for one in found["attention"].values())
