"""Wanda against its equation, and its invariances."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from naive_weights import share_of_rows, two_of_four, wanda_scores
from regrow.weights.pattern import Pattern
from regrow.weights.wanda_pruner import WandaPruner

LENGTHS = (7, 1, 12)
PATTERNS = [Pattern("2:4"), Pattern("unstructured", Decimal("0.3"))]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
SEEDS = st.integers(0, 99)


def normal(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def inputs(seed: int, width: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Return sequences of several lengths whose channels differ in scale."""
    scale = normal(seed + 1000, width).exp()
    return [(normal(seed + 100 * i, length, width) * scale).to(dtype) for i, length in enumerate(LENGTHS)]


def pruned(weight: Tensor, sequences: Sequence[Tensor], pattern: Pattern = PATTERNS[0]) -> Tensor:
    wanda = WandaPruner(weight, pattern)
    for x in sequences:
        wanda.add(x)
    return wanda.prune("w")


def naive_kept(scores: Tensor, pattern: Pattern) -> Tensor:
    return two_of_four(scores) if pattern.name == "2:4" else share_of_rows(scores, str(pattern.sparsity))


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.name)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_keeps_what_the_equation_says_bit_for_bit(pattern: Pattern, dtype: torch.dtype) -> None:
    weight, sequences = normal(0, 12, 16, dtype=dtype), inputs(1, 16, dtype)
    before = [weight.clone(), *(x.clone() for x in sequences)]
    got = pruned(weight, sequences, pattern)
    assert got.dtype == dtype
    assert torch.equal(got, torch.where(naive_kept(wanda_scores(weight, sequences), pattern), weight, 0))
    assert all(
        map(torch.equal, before, [weight, *sequences])
    )  # the inputs belong to the model, which goes on with them


def test_every_token_counts_alike_however_long_its_sequence() -> None:
    short, long = torch.zeros(1, 4), torch.zeros(9, 4)
    # The sums of squares are 16, 20.25 and 17.64; the means over the two sequences' means are 8, 1.1 and 1.
    short[:, 0], long[:, 1], long[:, 2] = 4, 1.5, 1.4
    assert pruned(torch.ones(1, 4), [short, long]).tolist() == [[0, 1, 1, 0]]


def test_squares_of_half_precision_inputs_do_not_overflow() -> None:
    weight, sequences = (
        normal(0, 4, 8, dtype=torch.float16),
        [x.clamp(-3, 3) * 1000 for x in inputs(1, 8, torch.float16)],
    )
    kept = two_of_four(wanda_scores(weight, sequences))
    assert torch.equal(pruned(weight, sequences), torch.where(kept, weight, 0))


def test_a_weight_whose_input_is_always_zero_goes_first() -> None:
    weight, (x, *_) = normal(0, 6, 8), inputs(1, 8)
    weight[:, 5], x[:, 5] = 1e6, 0
    assert not pruned(weight, [x])[:, 5].any()


@given(SEEDS)
def test_inputs_of_one_size_make_it_magnitude(seed: int) -> None:
    weight, x = normal(seed, 5, 12), normal(seed + 1, 9, 12).sign()
    assert torch.equal(pruned(weight, [x]), PATTERNS[0].prune(weight, weight.abs(), "w"))


@given(SEEDS, st.integers(-8, 8))
def test_the_unit_of_the_inputs_does_not_matter(seed: int, power: int) -> None:
    weight, sequences = normal(seed, 5, 12, dtype=torch.float32), inputs(seed + 1, 12, torch.float32)
    assert torch.equal(pruned(weight, [x * 2.0**power for x in sequences]), pruned(weight, sequences))


@given(SEEDS, st.permutations(range(5)))
def test_each_row_is_pruned_for_itself(seed: int, order: list[int]) -> None:
    weight, sequences = normal(seed, 5, 12), inputs(seed + 1, 12)
    assert torch.equal(pruned(weight[order], sequences), pruned(weight, sequences)[order])


@given(SEEDS, st.permutations(range(len(LENGTHS))))
def test_neither_the_order_nor_the_cuts_of_the_sequences_matter(seed: int, order: list[int]) -> None:
    # Sums in another order differ by rounding, about 1e-16: no two scores of these examples are that close.
    weight, sequences = normal(seed, 5, 12), inputs(seed + 1, 12)
    want = pruned(weight, sequences)
    assert torch.equal(pruned(weight, [sequences[i] for i in order]), want)
    assert torch.equal(pruned(weight, [torch.cat(sequences)]), want)
