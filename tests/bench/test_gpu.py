"""`make gpu`, as far as it goes without one: its checks in Triton's interpreter, its flow on the CPU."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from recorder import Recorder
from regrow import kernels
from regrow.bench import gpu, gpu_checks, gpu_kernels, shapes
from regrow.bench.bandwidth import bandwidth
from regrow.bench.gpu_checks import Check
from regrow.bench.shapes import Shape
from regrow.decoding import attention
from regrow.decoding import choose_network as networks
from regrow.decoding.choose_network import Networks
from regrow.kernels.attention import reference as attention_reference
from regrow.kernels.pruned_ffn import reference as ffn_reference
from regrow.kernels.pruned_linear import reference as linear_reference
from regrow.kernels.scores import reference as scores_reference
from regrow.kernels.threshold import reference as threshold_reference
from regrow.method.dense import Dense

CPU = torch.device("cpu")
TINY = Shape("tiny", "qwen2", 2, 32, 48, 4, 2, 8, 100, True)
BY_NAME = {check.name: check for check in gpu_checks.CHECKS}


class Stale:
    """A recording that does nothing when it is replayed."""

    def __call__(self, step: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        return lambda: None, step()


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes that the interpreter is done with in a second. It gets products of bfloat16 wrong: float16 alone."""
    sizes = {
        "WIDTH": 48,
        "NEURONS": 80,
        "KEEP": 40,
        "NEW": 4,
        "KINDS": ["qwen3"],
        "METHODS": [Dense()],
        "BATCHES": [2, 1],
        "ATTENTION": [(2, 1, 6, 2, 90), (1, 5, 4, 4, 70)],
        "HALVES": [torch.float16],
    }
    sizes["SIZES"] = {**gpu_checks.SIZES, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    for name, value in sizes.items():
        monkeypatch.setattr(gpu_checks, name, value)
    for name, value in {"COLD": 1, "SHORT": 30, "LONG": 200}.items():
        monkeypatch.setattr(gpu_kernels, name, value)


def test_without_a_gpu_it_says_so_and_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err == "regrow: error: no GPU is visible to torch here; run this on a machine with an NVIDIA GPU\n"
    assert not (tmp_path / "out").exists()


@pytest.fixture
def _as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps through the kernels, and recorded."""
    made = Networks.__init__

    def make(self: Networks, model: Any) -> None:
        made(self, model)
        self._kernels = True

    monkeypatch.setattr(Networks, "__init__", make)
    monkeypatch.setattr(networks, "CudaRecorder", Recorder)
    monkeypatch.setattr(kernels, "_on_gpu", lambda _: True)


@pytest.mark.usefixtures("_as_on_a_gpu")
@pytest.mark.parametrize("name", sorted(set(BY_NAME) - {"no stop of the host in a period"}))
def test_checks_hold(name: str) -> None:
    """All but the one that asks CUDA itself."""
    found = BY_NAME[name].run(CPU)
    assert found["holds"], found


def doubled(of: Any) -> Any:
    def wrong(*args: Any, **more: Any) -> Any:
        done = of(*args, **more)
        return None if done is None else 2 * done

    return wrong


def twice_the_output(*args: Any, **more: Any) -> None:
    real_attention(*args, **more)
    args[6].mul_(2)


real_attend = attention.attend
real_attention = attention_reference.decode_attention
WRONG = {
    "sparse FFN through an index": (ffn_reference, "sparse_ffn", doubled(ffn_reference.sparse_ffn)),
    "masked linear": (linear_reference, "masked_linear", doubled(linear_reference.masked_linear)),
    "scores": (scores_reference, "observe", lambda z, slot, total: total.fill_(1)),
    "inputs above a threshold": (threshold_reference, "magnitude", doubled(threshold_reference.magnitude)),
    "decode attention": (attention_reference, "decode_attention", twice_the_output),
    "recorded steps give the logits of plain ones": (networks, "CudaRecorder", Stale),
    "decode attention inside a model's own forward": (attention, "attend", lambda *args, **more: (2 * real_attend(*args, **more)[0], None)),
}


@pytest.mark.usefixtures("_as_on_a_gpu")
@pytest.mark.parametrize("name", sorted(WRONG))
def test_checks_fail_where_the_two_differ(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*WRONG[name])
    assert not BY_NAME[name].run(CPU)["holds"]


@pytest.mark.parametrize(
    ("errors", "holds"),
    [([1e-6] * 50, True), ([1e-6] * 46 + [1e-3] * 4, True), ([1e-3] * 50, False), ([1e-6] * 49 + [0.5], False), ([float("nan")], False)],
    ids=["roundings", "a neuron swapped", "wrong", "once", "no number"],
)
def test_a_swapped_neuron_is_no_failure_and_other_logits_are(errors: list[float], holds: bool) -> None:
    assert gpu_checks._alike([("a method", torch.tensor(errors))])["holds"] is holds


@pytest.mark.parametrize("rows", [1, 3])
def test_every_kernel_can_be_called_and_has_bytes(rows: int) -> None:
    found = {}
    for name, calls, size in gpu_kernels._kernels(TINY, rows, CPU):
        calls[0]()
        found[name] = size
    ffn, token = 2 * 3 * 48 * 32, 2 * 2 * 2 * 8
    assert found == {
        "dense FFN (cuBLAS)": ffn,
        "sparse FFN": ffn // 2,
        "masked linear": ffn // 6,
        "decode attention over 30": rows * 30 * token,
        "decode attention over 200": rows * 200 * token,
        "scores": rows * 48 * (2 + 2 * 4),  # activations read, totals read and written
        "selection, all layers": 2 * rows * 48 * 4,
    }


def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checks: list[Check], *options: str) -> tuple[int, dict[str, Any]]:
    monkeypatch.setitem(shapes.SHAPES, "tiny", TINY)  # type: ignore[misc]
    monkeypatch.setattr(gpu, "CHECKS", checks)
    monkeypatch.setattr(gpu, "bandwidth", partial(bandwidth, megabytes=1, repeats=1))
    monkeypatch.setattr(gpu, "kernel_times", lambda *_: iter([{"kernel": "one", "us": 3.0}]))
    monkeypatch.setattr(gpu, "bundled_turnover", lambda _: 0.25)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    real = gpu.measure
    monkeypatch.setattr(gpu, "measure", lambda args, _: real(args, CPU))
    code = gpu.main(["--out", str(tmp_path), "--shape", "tiny", "--batch-size", "2", "--repeats", "1", "--prompt", "4", *options])
    return code, json.loads((tmp_path / "gpu.json").read_text())


def broken(_: torch.device) -> dict[str, Any]:
    raise RuntimeError("out of resource\nand more")


HOLDS = Check("holds", lambda _: {"holds": True, "found": "as it should be"})


def test_it_measures_after_its_checks_and_keeps_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found = measured(tmp_path, monkeypatch, [HOLDS])
    assert code == 0
    assert found["checks"] == [{"name": "holds", "holds": True, "found": "as it should be"}]
    assert found["kernels"] == [{"kernel": "one", "us": 3.0}]
    assert [row["label"] for row in found["rows"]] == ["dense", "griffin", "teal", "bap", "transformers", "transformers, static cache"]
    said = capsys.readouterr().out
    assert said.splitlines()[-1] == str(tmp_path / "gpu.json")
    assert "tiny batch 2 prompt 4 bap:" in said


def test_a_check_that_fails_or_breaks_is_written_down_and_nothing_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, found = measured(tmp_path, monkeypatch, [Check("breaks", broken), HOLDS])
    assert code == 1
    assert [(check["holds"], check["found"]) for check in found["checks"]] == [
        (False, "RuntimeError: out of resource"),
        (True, "as it should be"),
    ]
    assert found["kernels"] == found["rows"] == []


def test_its_parts_can_be_run_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, found = measured(tmp_path, monkeypatch, [Check("breaks", broken)], "--part", "kernels")
    assert (code, found["checks"], len(found["kernels"]), found["rows"]) == (0, [], 1, [])
