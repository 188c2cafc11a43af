from __future__ import annotations

import json

import pytest
import torch

from regrow.bench import cpu_matmul, step_parts
from regrow.bench.shapes import SHAPES, Shape
from regrow.decoding import choose_network
from regrow.errors import RegrowError
from regrow.kernels import Codes, MatmulChoice
from regrow.kernels.laid_out.weight import MOST, few_rows_are_right


def test_the_last_line_is_what_was_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        cpu_matmul, "choose_matmul", lambda *_: MatmulChoice("native", "laid out", 4, 0, {"onednn 1": 19.0})
    )
    monkeypatch.setattr(cpu_matmul, "bandwidth", lambda _: {"read": 34e9})
    for name, value in {"OUTPUTS": 64, "INPUTS": 128, "COUNT": 1, "REPEATS": 1}.items():
        monkeypatch.setattr(cpu_matmul, name, value)
    cpu_matmul.main()
    *lines, last = capsys.readouterr().out.splitlines()
    found = json.loads(last)
    assert found["products"]["float32"] == {
        "alone": "native",
        "several": "laid out",
        "fewest": 4,
        "most": 0,
        "speed": {"onednn 1": 19.0},
    }
    assert found["read_gb_per_second"] == 34
    assert "bfloat16: a single row takes native, more take laid out" in lines


def test_parts_of_a_step_add_up(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    if not few_rows_are_right(torch.bfloat16):
        pytest.skip("there is no product of ours for this CPU, so that steps are not recorded")
    monkeypatch.setitem(SHAPES, "tiny", Shape("tiny", "qwen2", 2, 64, 128, 2, 2, 32, 128, True))  # type: ignore[misc]
    monkeypatch.setattr(
        choose_network, "choose_matmul", lambda *_: MatmulChoice("compiled", "compiled", 4, MOST, {})
    )
    monkeypatch.setattr(step_parts, "bandwidth", lambda _: {"read": 34e9})
    step_parts.main(rows=(1, 2), contexts=(40,), new=6, name="tiny")
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["shape"] == "tiny"
    for parts in found["steps"].values():
        assert 0 < parts["matmuls"] < parts["step"]
        assert 0 < parts["attention"] < parts["step"] - parts["matmuls"]
    assert set(found["attention"]) == {"1 x 40", "8 x 40"}
    assert all(one["gb_per_second"] > 0 for one in found["attention"].values())


def test_parts_of_a_step_that_is_not_recorded_are_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SHAPES, "tiny", Shape("tiny", "qwen2", 2, 32, 48, 4, 2, 8, 100, True))  # type: ignore[misc]
    with pytest.raises(RegrowError, match="cannot be timed"):
        step_parts.main(rows=(1,), contexts=(), new=6, name="tiny")


def test_torchs_matmul_gets_the_same_codes() -> None:
    """Its results are rounded to bfloat16, and so are scale and offset."""
    codes, x = Codes.of(torch.randn(64, 256)), torch.randn(3, 256).bfloat16()
    ours = cpu_matmul._torchs(codes)(x).double()
    torch.testing.assert_close(ours, x.double() @ codes.expanded(torch.float64).T, rtol=2**-7, atol=0.2)
