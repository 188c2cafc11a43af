"""Weights in oneDNN's layout give the products of plain ones, are had back bit for bit, and are refreshed neuron by neuron."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import linear, silu

from regrow.core import FFNWeights
from regrow.kernels import LaidOutWeight
from regrow.kernels.laid_out.products import LAID_OUT, NATIVE, ONEDNN, STORED, chosen, products
from regrow.kernels.laid_out.weight import can_lay_out, has_blocks
from regrow.kernels.pruned_ffn.laid_out import LaidOutFFN
from regrow.kernels.pruned_ffn.reference import sparse_ffn

CPU = torch.device("cpu")
KINDS = [dtype for dtype in (torch.float32, torch.bfloat16) if can_lay_out(dtype)]
# Sums of 64 to 192 terms in another order, in float32; results rounded to bfloat16.
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 8e-3}
WIDTH, NEURONS = 128, 320


def test_this_machine_lays_out_what_the_other_tests_are_about() -> None:
    """On a CPU without oneDNN there would be nothing to test, and the tests here should say so."""
    assert torch.float32 in KINDS


def normal(*sizes: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(sizes, generator=torch.Generator().manual_seed(seed)).to(dtype)


def error(ours: Tensor, want: Tensor) -> float:
    return float((ours.double() - want.double()).norm() / want.double().norm())


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("size", [(64, 64), (192, 128), (33, 96), (100, 65), (1, 7)])
@pytest.mark.parametrize("rows", [(1,), (2, 1), (3, 5)])
@pytest.mark.parametrize("fewest", [1, 4])
def test_products_are_those_of_the_plain_weight(dtype: torch.dtype, size: tuple[int, int], rows: tuple[int, ...], fewest: int) -> None:
    weight, bias = normal(*size, seed=1, dtype=dtype), normal(size[0], seed=2, dtype=dtype)
    x = normal(*rows, size[1], seed=3, dtype=dtype)
    laid_out = LaidOutWeight(weight, fewest)
    assert torch.equal(laid_out.plain(), weight)
    for given_bias in (None, bias):
        y = laid_out(x, given_bias)
        assert y.shape == (*rows, size[0])
        assert error(y, linear(x.double(), weight.double(), None if given_bias is None else bias.double())) < TOLERANCE[dtype]


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
    rows=st.integers(1, 6),
)
def test_a_refreshed_copy_computes_the_definition(keep: int, biased: bool, changes: list[int], rows: int) -> None:
    for dtype in KINDS:
        parts = [normal(*size, seed=seed, dtype=dtype) for seed, size in enumerate([(NEURONS, WIDTH), (NEURONS, WIDTH), (WIDTH, NEURONS)])]
        biases = [normal(size, seed=9 + size, dtype=dtype) if biased else None for size in (NEURONS, NEURONS, WIDTH)]
        weights = FFNWeights(*parts, silu, *biases)
        assert LaidOutFFN.fits(weights, keep)
        ffn = LaidOutFFN(weights, keep, torch.empty(keep, WIDTH, dtype=dtype), fewest=4)
        x = normal(rows, WIDTH, seed=5, dtype=dtype)
        before: set[int] = set()
        for seed in changes:
            index = torch.randperm(NEURONS, generator=torch.Generator().manual_seed(seed))[:keep].sort().values
            moved = ffn.load(index)
            assert moved == len(set(index.tolist()) - before)
            before = set(index.tolist())
            assert error(ffn(x), sparse_ffn(weights, index, x)) < 4 * TOLERANCE[dtype]  # three products, one of another's result
        ffn.forget()
        assert ffn.load(index) == keep


SPEED = {"onednn 1": 19.0, "native 1": 33.0, "onednn 4": 20.0, "onednn 16": 13.0}
LAID = {"laid out 1": 25.0, "laid out 4": 29.0, "laid out 16": 19.0}


@pytest.mark.parametrize(
    ("speed", "alone", "several", "fewest"),
    [
        (SPEED | LAID, NATIVE, LAID_OUT, 4),
        (SPEED, NATIVE, ONEDNN, 1),  # nothing can be laid out
        (SPEED | {"native 1": 19.5}, ONEDNN, ONEDNN, 1),  # not clearly faster
        (SPEED | LAID | {"native 1": 20.0}, LAID_OUT, LAID_OUT, 4),
        (SPEED | LAID | {"laid out 1": 28.5}, NATIVE, LAID_OUT, 1),
        (SPEED | LAID | {"laid out 4": 20.5, "laid out 16": 13.5}, NATIVE, ONEDNN, 1),
    ],
)
def test_the_product_that_is_clearly_the_fastest_is_taken(speed: dict[str, float], alone: str, several: str, fewest: int) -> None:
    found = chosen(speed)
    assert (found.alone, found.several, found.fewest) == (alone, several, fewest)
    assert found.lays_out(1) == (alone == LAID_OUT)
    assert found.lays_out(2) == (several == LAID_OUT)
    assert (found.native(1), found.native(2)) == (alone == NATIVE, False)
    assert "one row" in found.to_text()["products"]


@pytest.mark.parametrize(
    ("dtype", "device", "size"), [(torch.bfloat16, "cpu", 10**6), (torch.bfloat16, "cuda", 10**10), (torch.float64, "cpu", 10**10)]
)
def test_small_models_other_devices_and_other_types_are_left_alone(dtype: torch.dtype, device: str, size: int) -> None:
    assert products(dtype, torch.device(device), size) is STORED
    assert not STORED.to_text()
