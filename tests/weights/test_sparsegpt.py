"""SparseGPT against the optimal brain surgeon, one column at a time, and its invariances."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from naive_weights import sparsegpt as naive
from regrow.errors import RegrowError, UsageError
from regrow.weights import WeightPruner
from regrow.weights.pattern import Pattern
from regrow.weights.sparsegpt_pruner import SparseGPTPruner
from regrow.weights.wanda_pruner import WandaPruner

SEEDS = st.integers(0, 99)


def normal(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def correlated(
    seed: int, width: int, lengths: Sequence[int] = (40, 25), dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    """Return sequences x = z A [T, in] with one fixed A: channels differ in scale and are correlated."""
    mixing = normal(seed + 500, width, width) * normal(seed + 501, width).exp()
    return [(normal(seed + i, length, width) @ mixing).to(dtype) for i, length in enumerate(lengths)]


def pruned(pruner: WeightPruner, sequences: Sequence[Tensor]) -> Tensor:
    for x in sequences:
        pruner.add(x)
    return pruner.prune("w")


# A block has 128 columns: widths within a block, at its border, and several blocks with a short last one.
@pytest.mark.parametrize("width", [4, 16, 128, 132, 300])
def test_equals_the_surgeon(width: int) -> None:
    weight, sequences = normal(1, 6, width), correlated(2, width)
    # Both invert a Hessian of condition at most 100 * width: 1e-16 * 3e4, with a thousandfold margin for
    # the steps that follow.
    torch.testing.assert_close(
        pruned(SparseGPTPruner(weight), sequences), naive(weight, sequences), rtol=1e-8, atol=1e-9
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_two_of_each_four_stay_in_every_dtype_and_nothing_given_changes(dtype: torch.dtype) -> None:
    weight, sequences = normal(1, 16, 32, dtype=dtype), correlated(2, 32, dtype=dtype)
    before = [weight.clone(), *(x.clone() for x in sequences)]
    got = pruned(SparseGPTPruner(weight), sequences)
    assert got.dtype == dtype
    assert ((got != 0).reshape(-1, 4).sum(dim=1) == 2).all()
    assert all(map(torch.equal, before, [weight, *sequences]))


def test_inputs_that_are_always_zero_lose_their_weights_and_harm_no_other() -> None:
    weight, sequences = normal(1, 6, 16), correlated(2, 16)
    weight[:, 5], weight[:, 12] = 1e3, 1e3
    for x in sequences:
        x[:, 5] = x[:, 12] = 0
    got = pruned(SparseGPTPruner(weight), sequences)
    assert not got[:, [5, 12]].any()
    torch.testing.assert_close(got, naive(weight, sequences), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_errs_less_than_wanda_and_wanda_less_than_magnitude(seed: int) -> None:
    weight, sequences = (
        normal(seed, 32, 64, dtype=torch.float32),
        correlated(seed, 64, (300, 200), torch.float32),
    )
    pattern = Pattern("2:4")
    ladder = [
        pruned(SparseGPTPruner(weight), sequences),
        pruned(WandaPruner(weight, pattern), sequences),
        pattern.prune(weight, weight.abs(), "w"),
    ]
    first, second, third = (
        float(torch.linalg.norm(torch.cat(sequences) @ (weight - got).t())) for got in ladder
    )
    assert first < second < third


@settings(max_examples=20)  # wider than a block of 128, hence slow
@given(SEEDS)
def test_independent_inputs_of_one_size_make_it_magnitude(seed: int) -> None:
    weight = normal(seed, 5, 132)
    assert torch.equal(
        pruned(SparseGPTPruner(weight), [torch.eye(132) * 3]), Pattern("2:4").prune(weight, weight.abs(), "w")
    )


@given(SEEDS, st.integers(-8, 8))
def test_the_unit_of_the_inputs_does_not_matter(seed: int, power: int) -> None:
    weight, sequences = normal(seed, 5, 12), correlated(seed + 1, 12)
    assert torch.equal(
        pruned(SparseGPTPruner(weight), [x * 2.0**power for x in sequences]),
        pruned(SparseGPTPruner(weight), sequences),
    )


@given(SEEDS, st.permutations(range(5)))
def test_each_row_is_pruned_for_itself(seed: int, order: list[int]) -> None:
    weight, sequences = normal(seed, 5, 12), correlated(seed + 1, 12)
    torch.testing.assert_close(
        pruned(SparseGPTPruner(weight[order]), sequences), pruned(SparseGPTPruner(weight), sequences)[order]
    )


@given(SEEDS)
def test_neither_order_nor_repetition_of_the_sequences_matters(seed: int) -> None:
    weight, sequences = normal(seed, 5, 12), correlated(seed + 1, 12)
    want = pruned(
        SparseGPTPruner(weight), sequences
    )  # float64; H differs by rounding, 1e-16 times its condition of at most 1200
    torch.testing.assert_close(pruned(SparseGPTPruner(weight), sequences[::-1]), want, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(pruned(SparseGPTPruner(weight), sequences * 3), want, rtol=1e-9, atol=1e-10)


def test_a_hessian_that_cannot_be_inverted_names_the_linear_and_the_remedy() -> None:
    pruner = SparseGPTPruner(normal(0, 4, 8, dtype=torch.float32))
    pruner.add(
        normal(1, 9, 8, dtype=torch.float32) * 1e-20
    )  # squares of 1e-40, whose inverse is beyond float32
    with pytest.raises(RegrowError, match=r"inputs of layers\.3\.down cannot be inverted; calibrate on more"):
        pruner.prune("layers.3.down")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_inputs_that_overflow_are_refused(value: float) -> None:
    pruner, x = SparseGPTPruner(normal(0, 4, 8, dtype=torch.float32)), normal(1, 9, 8, dtype=torch.float32)
    x[3, 2] = value
    pruner.add(x)
    with pytest.raises(RegrowError, match=r"overflows in layers\.3\.down"):
        pruner.prune("layers.3.down")


def test_weights_that_are_not_finite_are_refused() -> None:
    weight = normal(0, 4, 8, dtype=torch.float32)
    weight[1, 2] = float("nan")
    with pytest.raises(RegrowError, match=r"overflows in w or its weights are not finite"):
        pruned(SparseGPTPruner(weight), correlated(1, 8, dtype=torch.float32))


def test_a_width_that_is_no_multiple_of_four_is_refused() -> None:
    pruner = SparseGPTPruner(normal(0, 4, 6))
    pruner.add(normal(1, 9, 6))
    with pytest.raises(UsageError, match=r"layers\.3\.down has 6 inputs"):
        pruner.prune("layers.3.down")
