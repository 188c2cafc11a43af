"""Which weights of a matrix are kept, against a naive rule and with many ties; and what is refused."""

from __future__ import annotations

from decimal import Decimal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from naive_weights import share_of_rows, two_of_four
from regrow.errors import RegrowError, UsageError
from regrow.weights.pattern import Pattern

SPARSITIES = ("0", "0.1", "0.3", "0.5", "0.7")


@st.composite
def tied(draw: st.DrawFn, of: int = 1) -> Tensor:
    """Draw scores [out, in] of few distinct values; `in` is a multiple of `of`."""
    rows, width = draw(st.integers(1, 4)), of * draw(st.integers(-(-4 // of), 16 // of))
    values = draw(st.lists(st.integers(0, 3), min_size=rows * width, max_size=rows * width))
    return torch.tensor(values, dtype=torch.float32).reshape(rows, width)


@given(tied(of=4))
def test_two_of_each_four_stay(scores: Tensor) -> None:
    kept = Pattern("2:4").kept(scores, "w")
    assert torch.equal(kept, two_of_four(scores))
    assert (kept.reshape(-1, 4).sum(dim=1) == 2).all()


@given(tied(), st.sampled_from(SPARSITIES))
def test_a_share_of_each_row_stays(scores: Tensor, sparsity: str) -> None:
    assert torch.equal(
        Pattern("unstructured", Decimal(sparsity)).kept(scores, "w"), share_of_rows(scores, sparsity)
    )


def test_the_share_is_that_of_the_decimal() -> None:
    kept = Pattern("unstructured", Decimal("0.9")).kept(
        torch.rand(3, 8960, generator=torch.Generator().manual_seed(0)), "w"
    )
    assert kept.sum(dim=1).tolist() == [896] * 3  # 895 in binary floats


def test_unstructured_groups_cross_the_borders_of_four() -> None:
    scores = torch.tensor([[9.0, 8, 7, 6, 1, 2, 3, 4]])
    assert Pattern("unstructured", Decimal("0.5")).kept(scores, "w").tolist() == [[True] * 4 + [False] * 4]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_what_stays_keeps_its_bits_and_the_given_weight_is_untouched(dtype: torch.dtype) -> None:
    weight = torch.randn(8, 16, generator=torch.Generator().manual_seed(1)).to(dtype)
    weight[0, :4] = torch.tensor([-0.0, 0.0, -0.0, 0.0])  # a tie that keeps a negative zero
    before = weight.clone()
    pruned = Pattern("2:4").prune(weight, weight.abs(), "w")
    kept = two_of_four(weight.abs())
    assert pruned.dtype == dtype
    assert torch.equal(pruned[kept].signbit(), weight[kept].signbit())
    assert torch.equal(pruned[kept], weight[kept])
    assert not pruned[~kept].any()
    assert torch.equal(weight, before)


def test_the_linear_is_named_where_the_pattern_does_not_fit() -> None:
    scores = torch.ones(2, 6)
    with pytest.raises(UsageError, match=r"layers\.3\.down has 6 inputs.*multiple of four.*unstructured"):
        Pattern("2:4").kept(scores, "layers.3.down")
    with pytest.raises(UsageError, match=r"0\.9 keeps none of the 6 inputs of layers\.3\.down"):
        Pattern("unstructured", Decimal("0.9")).kept(scores, "layers.3.down")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_are_refused(value: float) -> None:
    scores = torch.ones(2, 4)
    scores[1, 2] = value
    with pytest.raises(RegrowError, match=r"overflows in layers\.3\.down"):
        Pattern("2:4").prune(torch.ones(2, 4), scores, "layers.3.down")


def test_refuses_patterns_it_does_not_know() -> None:
    with pytest.raises(UsageError, match="unknown pattern '4:8'"):
        Pattern("4:8")
    with pytest.raises(UsageError, match=r"drops half of the weights, not 0\.6"):
        Pattern("2:4", Decimal("0.6"))
