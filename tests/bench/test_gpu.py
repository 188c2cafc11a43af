"""`make gpu` without a GPU: each check finds a defect; the runner and the measurements work on the CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gpu import errors
from gpu.interpreted import as_on_a_gpu
from gpu.run import checks, main, run, run_all
from gpu.sizes import SMALL
from regrow.bench import gpu, gpu_kernels, shapes
from regrow.bench.bench_result import Reference, Result
from regrow.bench.machine import bandwidth
from regrow.bench.roofline import weights_of
from regrow.bench.shapes import Shape
from regrow.decoding import attention, choose_network, fused
from regrow.kernels.attention import reference as attention_reference
from regrow.kernels.pruned_ffn import reference as ffn_reference
from regrow.kernels.pruned_linear import reference as linear_reference
from regrow.kernels.pruned_linear import threshold as threshold_reference
from regrow.kernels.quantized import reference as quantized_reference
from regrow.kernels.scores import reference as scores_reference

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]
TINY = Shape("tiny", "qwen2", 2, 32, 48, 4, 2, 8, 100, True)
CHECKS = checks()
ASKS_CUDA = "no stop of the host in a period"


class Stale:
    """A recording that does nothing when it is replayed."""

    def __call__(self, step: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        return lambda: None, step()


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
    "sparse ffn through an index": (ffn_reference, "sparse_ffn", doubled(ffn_reference.sparse_ffn)),
    "masked linear": (linear_reference, "masked_linear", doubled(linear_reference.masked_linear)),
    "quantised linear": (
        quantized_reference,
        "quantized_linear",
        doubled(quantized_reference.quantized_linear),
    ),
    "quantised ffn with all neurons and through an index": (
        quantized_reference,
        "quantized_ffn",
        doubled(quantized_reference.quantized_ffn),
    ),
    "scores": (scores_reference, "observe", lambda z, slot, total: total.fill_(1)),
    "inputs above a threshold": (threshold_reference, "magnitude", doubled(threshold_reference.magnitude)),
    "decode attention": (attention_reference, "decode_attention", twice_the_output),
    "recorded steps give the logits of plain ones": (choose_network, "CudaRecorder", Stale),
    "decode attention inside a models own forward": (
        attention,
        "attend",
        lambda *args, **more: (2 * real_attend(*args, **more)[0], None),
    ),
}


@pytest.fixture
def _as_on_a_gpu() -> Iterator[None]:
    with as_on_a_gpu():
        yield


def test_every_check_has_a_defect_that_it_finds() -> None:
    """The only check without a defect in WRONG is the one that needs CUDA."""
    assert set(CHECKS) == {*WRONG, ASKS_CUDA}


@pytest.mark.usefixtures("_as_on_a_gpu")
@pytest.mark.parametrize("name", WRONG)
def test_a_check_fails_where_the_two_differ(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*WRONG[name])
    assert not run(name, CHECKS[name])["holds"]


def laid_out_as_on_a_gpu(*args: Any, **more: Any) -> Tensor:
    """Return a result [B, H, T, d] that lies in memory as [B, T, H, d], as torch's fused attention does."""
    y = real_product(*args, **more)
    return y.transpose(1, 2).contiguous().transpose(1, 2)


real_product = torch.nn.functional.scaled_dot_product_attention


@pytest.mark.usefixtures("_as_on_a_gpu")
@pytest.mark.parametrize("name", ["decode attention", "recorded steps give the logits of plain ones"])
def test_a_check_holds_however_attention_lays_out_its_result(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (attention_reference, fused):
        monkeypatch.setattr(module, "scaled_dot_product_attention", laid_out_as_on_a_gpu)
    found = run(name, CHECKS[name])
    assert found["holds"], found


@pytest.mark.parametrize(
    ("found", "holds"),
    [
        ([1e-6] * 50, True),
        ([1e-6] * 46 + [1e-3] * 4, True),
        ([1e-3] * 50, False),
        ([1e-6] * 49 + [0.5], False),
        ([float("nan")], False),
    ],
    ids=["roundings", "a neuron swapped", "wrong", "once", "no number"],
)
def test_a_swapped_neuron_is_no_failure_and_other_logits_are(found: list[float], holds: bool) -> None:
    assert run("logits", lambda: errors.expect_alike([("a method", torch.tensor(found))]))["holds"] is holds


@pytest.mark.parametrize(("error", "holds"), [(4 * 2**-10, True), (5 * 2**-10, False), (float("nan"), False)])
def test_an_error_of_more_roundings_than_allowed_fails(error: float, holds: bool) -> None:
    one = run("a kernel", lambda: errors.expect_within([(torch.float16, 0.0), (torch.float16, error)], 4))
    assert one["holds"] is holds


# The runner


def broken() -> None:
    print("first")
    raise RuntimeError("out of resource\nand more")


def fails() -> None:
    assert 1 > 2, "one is not greater"


def test_all_checks_are_run_and_written_down_though_one_breaks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {
        "breaks": broken,
        "fails": fails,
        "holds": lambda: print("0 inputs differ"),
        "says nothing": lambda: None,
    }
    assert run_all(given, tmp_path / "made" / "here") == 1
    assert capsys.readouterr().out.splitlines() == [
        "FAILS: breaks: first; RuntimeError: out of resource",
        "FAILS: fails: AssertionError: one is not greater",
        "holds: holds: 0 inputs differ",
        "holds: says nothing",
    ]
    found = json.loads((tmp_path / "made" / "here" / "checks.json").read_text())["checks"]
    assert [(one["name"], one["holds"], one["found"]) for one in found] == [
        ("breaks", False, "first; RuntimeError: out of resource"),
        ("fails", False, "AssertionError: one is not greater"),
        ("holds", True, "0 inputs differ"),
        ("says nothing", True, ""),
    ]


def test_the_exit_code_is_zero_where_everything_holds(tmp_path: Path) -> None:
    assert run_all({"holds": lambda: None}, tmp_path) == 0


def test_what_was_checked_stays_if_the_run_is_cut_off(tmp_path: Path) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_all({"holds": lambda: None, "is cut off": interrupted}, tmp_path)
    assert len(json.loads((tmp_path / "checks.json").read_text())["checks"]) == 1


def test_checks_in_the_interpreter_are_no_checks_of_a_gpu(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--out", str(tmp_path / "out")]) == 1
    assert "TRITON_INTERPRET is set; unset it" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_runner_needs_neither_pytest_nor_anything_else_of_the_tests() -> None:
    """Import the runner where pytest and hypothesis, typer and rich cannot be imported."""
    without = (
        "import sys; sys.modules.update(dict.fromkeys(('pytest', '_pytest', 'hypothesis', 'typer', 'rich')))"
    )
    code = f"{without}; from gpu.run import checks; print(len(checks())); import regrow.bench.gpu"
    environment = {
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
        "TRITON_INTERPRET": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert (done.returncode, done.stdout) == (0, f"{len(CHECKS)}\n"), done.stderr


# What is measured


def test_without_a_gpu_it_says_so_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gpu.main(["--out", str(tmp_path / "out")]) == 1
    assert (
        capsys.readouterr().err
        == "regrow: error: no GPU is visible to torch here; run this on a machine with an NVIDIA GPU\n"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("_as_on_a_gpu")
@pytest.mark.parametrize("rows", [1, 3])
def test_every_kernel_can_be_called_and_has_bytes(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"COLD": 1, "SHORT": 30, "LONG": 200, "DTYPE": SMALL.halves[0]}.items():
        monkeypatch.setattr(gpu_kernels, name, value)
    found = {}
    for name, calls, size in gpu_kernels._kernels(TINY, rows, CPU):
        calls[0]()
        found[name] = size
    ffn, token = 2 * 3 * 48 * 32, 2 * 2 * 2 * 8
    assert found == {
        "dense FFN (cuBLAS)": ffn,
        "sparse FFN": ffn // 2,
        "masked linear": ffn // 6,
        "quantised FFN": 3 * 48 * 68,  # one group a row: 64 bytes of codes, a scale and an offset
        "quantised sparse FFN": 3 * 24 * 68,
        "quantised q, k, v": 64 * 68,
        "quantised head": 100 * 132,
        "decode attention over 30": rows * 30 * token,
        "decode attention over 200": rows * 200 * token,
        "scores": rows * 48 * (2 + 2 * 4),  # activations read, totals read and written
        "selection, all layers": 2 * rows * 48 * 4,
    }


@pytest.fixture
def measure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Return a function that runs `regrow.bench.gpu` on the CPU and writes to the test's folder."""
    monkeypatch.setitem(shapes.SHAPES, "tiny", TINY)  # type: ignore[misc]
    for module in ("gpu", "run"):
        monkeypatch.setattr(f"regrow.bench.{module}.bandwidth", partial(bandwidth, megabytes=1, repeats=1))
    monkeypatch.setattr(
        gpu, "kernel_times", lambda *_: iter([{"kernel": "one", "us": 3.0}, {"kernel": "two", "us": 4.0}])
    )
    monkeypatch.setattr("regrow.bench.run.bundled_turnover", lambda _: 0.25)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    real = gpu.measure
    monkeypatch.setattr(gpu, "measure", lambda args, _: real(args, CPU))
    options = [
        "--out",
        str(tmp_path),
        "--shape",
        "tiny",
        "--batch-size",
        "2",
        "--repeats",
        "1",
        "--prompt",
        "4",
    ]
    return lambda *more: gpu.main([*options, *more])


def test_it_measures_kernels_then_decoding_and_keeps_everything(
    measure: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert measure() == 0
    found = json.loads((tmp_path / "kernels.json").read_text())
    assert found["kernels"] == [{"kernel": "one", "us": 3.0}, {"kernel": "two", "us": 4.0}]
    assert {"torch", "device"} <= set(found["made_with"])
    result = Result.load(tmp_path / "decode.json")
    assert [row.label for row in result.rows] == [
        "dense",
        "griffin",
        "teal",
        "bap",
        "transformers",
        "transformers, static cache",
    ]
    assert (result.settings["turnover"], result.settings["dtype"]) == (0.25, "bfloat16")
    assert Reference.of(tmp_path / "decode.json").ratios
    said = capsys.readouterr().out.splitlines()
    assert [line for line in said if line.startswith("{")] == said[:2]
    assert any(line.startswith("tiny batch 2 prompt 4 bap:") for line in said[2:])


@pytest.mark.parametrize(("part", "there"), [("kernels", "kernels.json"), ("decode", "decode.json")])
def test_its_parts_can_be_run_apart(
    measure: Callable[..., int], tmp_path: Path, part: str, there: str
) -> None:
    assert measure("--part", part) == 0
    assert [path.name for path in tmp_path.iterdir()] == [there]


def test_the_loops_of_transformers_can_be_left_out(measure: Callable[..., int], tmp_path: Path) -> None:
    assert measure("--part", "decode", "--without-transformers") == 0
    result = Result.load(tmp_path / "decode.json")
    assert [row.label for row in result.rows] == ["dense", "griffin", "teal", "bap"]


def test_the_bytes_of_teal_are_those_it_reads(measure: Callable[..., int], tmp_path: Path) -> None:
    """Its thresholds decide how much it leaves out, near to its target of a half."""
    assert measure("--part", "decode", "--without-transformers") == 0
    rows = {row.label: row for row in Result.load(tmp_path / "decode.json").rows}
    teal, sparsity = rows["teal"], rows["teal"].sparsity
    assert sparsity is not None
    assert 0.4 < sparsity < 0.6
    assert {label for label, row in rows.items() if row.sparsity is not None} == {"teal"}
    linears = sum(weights_of(TINY.build(torch.bfloat16, CPU)).sites.values())
    assert rows["dense"].bytes_per_step - teal.bytes_per_step == pytest.approx(sparsity * linears, abs=1)
    assert teal.bound == rows["dense"].bytes_per_step / teal.bytes_per_step


def test_results_that_cannot_be_kept_are_one_sentence(
    measure: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a file").touch()
    assert measure("--out", str(tmp_path / "a file")) == 1
    said = capsys.readouterr().err
    assert "cannot be written" in said
    assert said.count("\n") == 1


# The targets of make


def make(*given: str) -> subprocess.CompletedProcess[str]:
    """Return what `make gpu` would run."""
    return subprocess.run(
        ["make", "-n", "gpu", *given], capture_output=True, text=True, check=False, cwd=ROOT
    )


@pytest.mark.parametrize(
    ("given", "commands"),
    [
        (
            [],
            [
                "python3 -m gpu.run --out results/gpu",
                "python3 -m regrow.bench.gpu --out results/gpu --part kernels --part decode",
            ],
        ),
        (["PART=checks"], ["python3 -m gpu.run --out results/gpu"]),
        (["PART=decode", "OUT=there"], ["python3 -m regrow.bench.gpu --out there --part decode"]),
        (
            ["PART=decode kernels"],
            ["python3 -m regrow.bench.gpu --out results/gpu --part decode --part kernels"],
        ),
    ],
)
def test_make_runs_the_checks_then_what_is_measured(given: list[str], commands: list[str]) -> None:
    done = make(*given)
    assert done.returncode == 0, done.stderr
    said = [line.partition(" ") for line in done.stdout.splitlines() if line.startswith("PYTHONPATH=")]
    assert [command for _, _, command in said] == commands


def test_make_refuses_a_part_that_is_not_there() -> None:
    done = make("PART=check")
    assert done.returncode
    assert "PART takes checks, kernels, decode, not check" in done.stderr
