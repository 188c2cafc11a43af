"""Weights in oneDNN's layout.

They give the matmuls of plain weights, are restored bit for bit, and are refreshed neuron by neuron.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import gelu, linear, silu

from kernels.compiled_here import COMPILED
from regrow.core import FFNWeights
from regrow.kernels import LaidOutGate, LaidOutWeight, SparseFFN
from regrow.kernels.laid_out.choose_matmul import COMPILED as OWN
from regrow.kernels.laid_out.choose_matmul import (
    LAID_OUT,
    NATIVE,
    ONEDNN,
    STORED,
    MatmulChoice,
    choose_matmul,
    chosen,
    has_instructions,
    repeatable_matmul,
)
from regrow.kernels.laid_out.weight import MOST, can_lay_out, few_rows_are_right, has_blocks
from regrow.kernels.pruned_ffn.cpu import CompiledFFN
from regrow.kernels.pruned_ffn.laid_out import LaidOutFFN
from regrow.kernels.pruned_ffn.reference import sparse_ffn

CPU = torch.device("cpu")
KINDS = [dtype for dtype in (torch.float32, torch.bfloat16) if can_lay_out(dtype)]
# Errors of float32 sums of 64 to 192 terms in another order, and of rounding results to bfloat16.
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 8e-3}
WIDTH, NEURONS = 128, 320
ALL_COMPILED = MatmulChoice(OWN, OWN, 4, MOST, {})


def test_this_machine_lays_out_what_the_other_tests_are_about() -> None:
    """Fails on a CPU without oneDNN, where the other tests would have no cases."""
    assert torch.float32 in KINDS


@pytest.mark.parametrize("answer", [True, False])
def test_onednn_says_which_instructions_there_are(answer: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: answer)
    assert has_instructions(torch.bfloat16) is answer
    assert has_instructions(torch.float32)
    assert has_instructions(torch.float16)
    monkeypatch.setattr(torch.ops, "mkldnn", object())  # another build of torch
    assert has_instructions(torch.bfloat16)


def normal(*sizes: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(sizes, generator=torch.Generator().manual_seed(seed)).to(dtype)


def error(ours: Tensor, want: Tensor) -> float:
    return float((ours.double() - want.double()).norm() / want.double().norm().clamp(min=1e-30))


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("size", [(64, 64), (192, 128), (33, 96), (100, 65), (1, 7)])
@pytest.mark.parametrize("rows", [(1,), (2, 1), (3, 5)])
@pytest.mark.parametrize(("fewest", "most"), [(1, 0), (4, 0), (4, MOST)])
def test_products_are_those_of_the_plain_weight(
    dtype: torch.dtype, size: tuple[int, int], rows: tuple[int, ...], fewest: int, most: int
) -> None:
    weight, bias = normal(*size, seed=1, dtype=dtype), normal(size[0], seed=2, dtype=dtype)
    x = normal(*rows, size[1], seed=3, dtype=dtype)
    laid_out = LaidOutWeight(weight, fewest, most)
    assert torch.equal(laid_out.plain(), weight)
    for given_bias in (None, bias):
        y = laid_out(x, given_bias)
        assert y.shape == (*rows, size[0])
        assert (
            error(y, linear(x.double(), weight.double(), None if given_bias is None else bias.double()))
            < TOLERANCE[dtype]
        )


@COMPILED
@pytest.mark.parametrize("dtype", [dtype for dtype in KINDS if few_rows_are_right(dtype)])
@given(rows=st.integers(1, MOST), blocks=st.integers(1, 5), inputs=st.integers(1, 20), biased=st.booleans())
@settings(max_examples=40)
def test_a_row_of_our_own_product_depends_on_no_other(
    dtype: torch.dtype, rows: int, blocks: int, inputs: int, biased: bool
) -> None:
    """A row gives the same bits alone and with others, in any number of groups and chunks.

    The result agrees with that of the plain weight.
    """
    weight, x = (
        normal(64 * blocks, 64 * inputs, seed=1, dtype=dtype),
        normal(rows, 64 * inputs, seed=2, dtype=dtype),
    )
    bias = normal(64 * blocks, seed=3, dtype=dtype) if biased else None
    laid_out = LaidOutWeight(weight, most=MOST)
    y = laid_out(x, bias)
    assert torch.equal(y, torch.cat([laid_out(row[None], bias) for row in x]))
    wanted = linear(x.double(), weight.double(), None if bias is None else bias.double())
    assert error(y, wanted) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("act", [silu, gelu])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("rows", "most"), [(1, 0), (1, MOST), (7, MOST), (MOST, MOST), (MOST + 1, MOST)])
def test_gate_and_up_in_one_pass_are_what_they_are_in_three(
    rows: int, most: int, biased: bool, act: Callable[[Tensor], Tensor], dtype: torch.dtype
) -> None:
    """Uses whole numbers, whose matmuls are exact in any order."""
    x, gate, up = (
        normal(*size, seed=seed).round_().to(dtype)
        for seed, size in enumerate([(rows, 64), (192, 64), (192, 64)])
    )
    biases = tuple(normal(192, seed=5 + i).to(dtype) if biased else None for i in range(2))
    hidden = LaidOutGate(LaidOutWeight(gate, most=most), LaidOutWeight(up, most=most), biases, act)
    wanted = act(linear(x, gate, biases[0])) * linear(x, up, biases[1])
    torch.testing.assert_close(hidden(x), wanted, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)


@COMPILED
@pytest.mark.parametrize("dtype", [dtype for dtype in KINDS if few_rows_are_right(dtype)])
def test_a_kernel_reads_nothing_as_another_type_or_size(dtype: torch.dtype) -> None:
    """After a cast, under autocast, or with a wrong input, oneDNN gets the operands and raises an error."""
    weight, x = normal(128, 64, seed=1, dtype=dtype), normal(2, 64, seed=2, dtype=dtype)
    other = torch.float32 if dtype is torch.bfloat16 else torch.bfloat16
    laid_out = LaidOutWeight(weight, most=MOST)
    gate = LaidOutGate(laid_out, laid_out, (None, None), silu)
    for call in (laid_out, gate):
        for wrong in (x.to(other), x[:, :32], torch.cat([x, x], dim=1)):
            with pytest.raises(RuntimeError):
                call(wrong)
        assert call(x[:0]).shape == (0, 128)


@COMPILED
def test_our_own_product_has_what_it_was_made_for() -> None:
    """bfloat16 is supported where the CPU can multiply it."""
    flags = Path("/proc/cpuinfo").read_text().split()
    there = "avx512_bf16" in flags
    assert few_rows_are_right(torch.bfloat16) == there
    if can_lay_out(torch.bfloat16):
        assert LaidOutWeight(torch.ones(128, 64).bfloat16(), most=MOST).most == (MOST if there else 0)
        assert LaidOutWeight(torch.ones(100, 64).bfloat16(), most=MOST).most == 0


@pytest.mark.parametrize("dtype", KINDS)
def test_what_is_written_into_the_blocks_is_multiplied_with(dtype: torch.dtype) -> None:
    assert has_blocks(192, 128, dtype)
    assert not has_blocks(100, 128, dtype)
    laid_out, x = LaidOutWeight(torch.zeros(192, 128, dtype=dtype)), normal(4, 128, seed=3, dtype=dtype)
    laid_out.blocks()[1, :, 5] = 0x3F80 if dtype.itemsize == 2 else 0x3F800000  # row 69: ones
    y = laid_out(x)
    assert error(y[:, 69], x.double().sum(dim=1)) < TOLERANCE[dtype]
    assert not y[:, :69].any()
    assert not y[:, 70:].any()


@given(
    keep=st.integers(1, NEURONS - 1),
    biased=st.booleans(),
    changes=st.lists(st.integers(0, 10_000), min_size=1, max_size=4),
    rows=st.sampled_from([1, 2, 5, 6, 7, 13, MOST, MOST + 1]),
)
def test_a_refreshed_copy_computes_the_definition(
    keep: int, biased: bool, changes: list[int], rows: int
) -> None:
    """Tests the copy in oneDNN's layout and the one in our own."""
    for dtype in KINDS:
        # Whole numbers, so small that every sum is exact in any order, except those of the matmul with down.
        sizes = [(NEURONS, WIDTH), (NEURONS, WIDTH), (WIDTH, NEURONS)]
        parts = [normal(*size, seed=seed).mul_(2).round_().to(dtype) for seed, size in enumerate(sizes)]
        biases = [
            normal(size, seed=9 + size).round_().to(dtype) if biased else None
            for size in (NEURONS, NEURONS, WIDTH)
        ]
        weights = FFNWeights(*parts, silu, *biases)
        assert LaidOutFFN.fits(weights, keep)
        x = normal(rows, WIDTH, seed=5).round_().to(dtype)
        forms: list[SparseFFN] = [
            LaidOutFFN(weights, keep, torch.empty(keep, WIDTH, dtype=dtype), ALL_COMPILED)
        ]
        if CompiledFFN.fits(weights):
            forms.append(CompiledFFN(weights, keep))
        before: set[int] = set()
        for seed in changes:
            index = (
                torch.randperm(NEURONS, generator=torch.Generator().manual_seed(seed))[:keep].sort().values
            )
            new, before = len(set(index.tolist()) - before), set(index.tolist())
            for ffn in forms:
                assert ffn.load(index) == new
                # One tolerance for the activation, one for the last matmul.
                assert error(ffn(x), sparse_ffn(weights, index, x)) < 2 * TOLERANCE[dtype]
        for ffn in forms:
            ffn.forget()
            assert ffn.load(index) == keep


SPEED = {"onednn 1": 19.0, "native 1": 33.0, "onednn 4": 20.0, "onednn 16": 13.0}
LAID = {"laid out 1": 25.0, "laid out 4": 29.0, "laid out 16": 19.0}
OURS = {"compiled 1": 34.0, "compiled 4": 34.0, "compiled 16": 23.0}


@pytest.mark.parametrize(
    ("speed", "alone", "several", "fewest", "most"),
    [
        (SPEED | LAID, NATIVE, LAID_OUT, 4, 0),
        (SPEED, NATIVE, ONEDNN, 1, 0),  # nothing can be laid out
        (SPEED | {"native 1": 19.5}, ONEDNN, ONEDNN, 1, 0),  # not clearly faster
        (SPEED | LAID | {"native 1": 20.0}, LAID_OUT, LAID_OUT, 4, 0),
        (SPEED | LAID | {"laid out 1": 28.5}, NATIVE, LAID_OUT, 1, 0),
        (SPEED | LAID | {"laid out 4": 20.5, "laid out 16": 13.5}, NATIVE, ONEDNN, 1, 0),
        (SPEED | LAID | OURS, OWN, OWN, 4, MOST),  # as fast as the native one, with weights laid out anyway
        (SPEED | LAID | OURS | {"native 1": 36.0}, NATIVE, OWN, 4, MOST),
        (SPEED | LAID | OURS | {"native 1": 30.0}, OWN, OWN, 4, MOST),
        (SPEED | LAID | {name: 0.7 * value for name, value in OURS.items()}, NATIVE, LAID_OUT, 4, 0),
    ],
)
def test_the_product_that_is_clearly_the_fastest_is_taken(
    speed: dict[str, float], alone: str, several: str, fewest: int, most: int
) -> None:
    found = chosen(speed)
    assert (found.alone, found.several, found.fewest, found.most) == (alone, several, fewest, most)
    assert found.lays_out(1) == (alone in (LAID_OUT, OWN))
    assert found.lays_out(2) == (several in (LAID_OUT, OWN))
    assert (found.native(1), found.native(2)) == (alone == NATIVE, False)
    assert "one row" in found.to_text()["products"]


@pytest.mark.parametrize(
    ("laid", "ours", "name"), [(True, True, OWN), (True, False, LAID_OUT), (False, False, ONEDNN)]
)
def test_a_repeatable_choice_measures_nothing(
    monkeypatch: pytest.MonkeyPatch, laid: bool, ours: bool, name: str
) -> None:
    module, cpu = "regrow.kernels.laid_out.choose_matmul.", torch.device("cpu")
    monkeypatch.setattr(module + "_measured", None)
    monkeypatch.setattr(module + "can_lay_out", lambda _: laid)
    monkeypatch.setattr(module + "few_rows_are_right", lambda _: ours)
    with repeatable_matmul():
        for dtype in (torch.bfloat16, torch.float32):
            found = choose_matmul(dtype, cpu, 10**9)
            assert (found.alone, found.several, bool(found.most)) == (name, name, ours)
            assert (found == STORED, found.to_text() == {}) == (not laid, not laid)
    with pytest.raises(TypeError):  # outside of it the matmuls are measured again
        choose_matmul(torch.bfloat16, cpu, 10**9)


@pytest.mark.parametrize(
    ("dtype", "device", "size"),
    [(torch.bfloat16, "cpu", 10**6), (torch.bfloat16, "cuda", 10**10), (torch.float64, "cpu", 10**10)],
)
def test_small_models_other_devices_and_other_types_are_left_alone(
    dtype: torch.dtype, device: str, size: int
) -> None:
    assert choose_matmul(dtype, torch.device(device), size) is STORED
    assert not STORED.to_text()
