"""Identities of pruned inputs, on small integers, whose sums are exact in any order."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from regrow.core import Blocks, Linear, Mode, Pass, Site
from regrow.pruning.inputs import SHARES, InputPruner, InputRule
from regrow.pruning.meter import Meter

WIDTH, OUT, HUGE = 6, 4, 2.0**40
few = settings(max_examples=40)
shares = st.sampled_from(SHARES)
halves = st.integers(0, 11).map(lambda twice: twice / 2)  # thresholds, equal to values and between values


def integers(rows: int, width: int, least: int = -5) -> st.SearchStrategy[Tensor]:
    """Draw a float64 matrix of small integers."""
    row = st.lists(st.integers(least, 5), min_size=width, max_size=width)
    return st.lists(row, min_size=rows, max_size=rows).map(
        lambda values: torch.tensor(values, dtype=torch.float64).view(rows, width)
    )


batches = st.integers(1, 5).flatmap(lambda rows: integers(rows, WIDTH))
weights = integers(OUT, WIDTH)


def pruner_of(weight: Tensor, threshold: float | None, **rule: Any) -> InputPruner:
    """Return the pruner of a model with one linear layer."""
    given = {
        "sparsity": Decimal("0.5"),
        "weighed": False,
        "share": "mean_abs",
        "by_threshold": threshold is not None,
    }
    sizes = {Site.O: [weight.numel()]}
    blocks = Blocks([0], [], [Linear("a.0.o_proj", 0, Site.O, weight, None)], sizes, sizes)
    return InputPruner(
        InputRule(**given | rule),
        blocks,
        None if threshold is None else torch.tensor([threshold], dtype=torch.float64),
    )


def run(
    x: Tensor, weight: Tensor, threshold: float | None = None, live: list[bool] | None = None, **rule: Any
) -> tuple[Tensor, int]:
    """Return the output [B, out] of a decode step on rows x [B, in], and the weights it counts."""
    pruner = pruner_of(weight, threshold, **rule)
    meter = Meter(1, x.device)
    pruner.start(len(x), meter)
    slot = torch.arange(len(x)).where(torch.tensor(live or [True] * len(x)), -1)
    step = Pass(Mode.SPARSE, slot, slot[:, None], prompt=False, decode=True)
    pruner.prepare(step)
    y = pruner.run(0, x[:, None], step)[:, 0]
    pruner.commit(step, slot)
    return y, meter.kept()[Site.O][0]


@few
@given(batches, weights, halves, shares)
def test_every_row_is_the_linear_on_what_the_batch_keeps(
    x: Tensor, weight: Tensor, threshold: float, share: str
) -> None:
    """The batch keeps the inputs that strictly exceed the threshold, in exact arithmetic."""
    sums = x.abs().sum(0) if share == "mean_abs" else x.sum(0).abs()
    keep = [Fraction(float(total)) / len(x) > Fraction(threshold) for total in sums]
    y, count = run(x, weight, threshold, share=share)
    assert torch.equal(y, (x * torch.tensor(keep)) @ weight.t())
    assert count == sum(keep) * OUT


@few
@given(integers(1, WIDTH), weights, halves, shares)
def test_a_batch_of_one_is_teal(x: Tensor, weight: Tensor, threshold: float, share: str) -> None:
    y, count = run(x, weight, threshold, share=share)
    assert torch.equal(y, (x * (x.abs() > threshold)) @ weight.t())
    assert count == int((x.abs() > threshold).sum()) * OUT


@few
@given(integers(1, WIDTH), weights, halves, shares, st.integers(2, 5))
def test_identical_rows_are_as_one(
    x: Tensor, weight: Tensor, threshold: float, share: str, rows: int
) -> None:
    (y, count), (one, alone) = (
        run(x.expand(rows, -1), weight, threshold, share=share),
        run(x, weight, threshold, share=share),
    )
    assert torch.equal(y, one.expand(rows, -1))
    assert count == alone


@few
@given(batches, weights, halves, shares, st.booleans(), st.data())
def test_rows_that_are_not_live_do_not_matter(
    x: Tensor, weight: Tensor, threshold: float, share: str, topk: bool, data: st.DataObject
) -> None:
    live = data.draw(st.lists(st.booleans(), min_size=len(x), max_size=len(x)).filter(any))
    poisoned = x.where(torch.tensor(live)[:, None], HUGE)
    limit = None if topk else threshold
    y, count = run(poisoned, weight, limit, live, share=share)
    want, alone = run(x[live], weight, limit, share=share)
    assert torch.equal(y[live], want)
    assert count == alone


@few
@given(batches, weights, halves, shares, st.booleans(), st.data())
def test_the_order_of_rows_does_not_matter(
    x: Tensor, weight: Tensor, threshold: float, share: str, topk: bool, data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(len(x))))
    limit = None if topk else threshold
    (y, count), (want, same) = run(x[order], weight, limit, share=share), run(x, weight, limit, share=share)
    assert torch.equal(y, want[order])
    assert count == same


@few
@given(batches, weights, halves)
def test_the_mean_of_magnitudes_keeps_what_the_magnitude_of_the_mean_does(
    x: Tensor, weight: Tensor, threshold: float
) -> None:
    """It keeps more inputs only where signs differ."""
    more, less = (run(x, torch.eye(WIDTH, dtype=x.dtype), threshold, share=share) for share in SHARES)
    assert more[1] >= less[1]
    assert bool((more[0] == less[0])[less[0] != 0].all())
    positive = (
        run(x.abs(), weight, threshold, share="mean_abs"),
        run(x.abs(), weight, threshold, share="abs_mean"),
    )
    assert positive[0][1] == positive[1][1]


@few
@given(batches, halves, shares, st.permutations(range(WIDTH)), st.booleans())
def test_columns_of_one_norm_make_wina_teal(
    x: Tensor, threshold: float, share: str, order: list[int], topk: bool
) -> None:
    weight, limit = 4 * torch.eye(WIDTH, dtype=x.dtype)[list(order)], None if topk else threshold
    wina = run(x, weight, None if topk else 4 * threshold, share=share, weighed=True)
    teal = run(x, weight, limit, share=share)
    assert torch.equal(wina[0], teal[0])
    assert wina[1] == teal[1]


@few
@given(batches, weights, shares, st.booleans(), st.sampled_from(["0.1", "0.5", "0.8"]))
def test_the_k_largest_are_k(x: Tensor, weight: Tensor, share: str, weighed: bool, sparsity: str) -> None:
    k = {"0.1": 5, "0.5": 3, "0.8": 1}[sparsity]
    _, count = run(x, weight, share=share, weighed=weighed, sparsity=Decimal(sparsity))
    assert count == k * OUT


@few
@given(batches, weights, halves, shares, st.booleans(), st.booleans())
def test_prompts_are_processed_densely(
    x: Tensor, weight: Tensor, threshold: float, share: str, weighed: bool, topk: bool
) -> None:
    pruner, meter = (
        pruner_of(weight, None if topk else threshold, share=share, weighed=weighed),
        Meter(1, x.device),
    )
    pruner.start(1, meter)
    slot = torch.zeros(len(x), dtype=torch.int64)
    step = Pass(Mode.OBSERVE, slot, slot[:, None], prompt=True, decode=False)
    pruner.prepare(step)
    assert torch.equal(pruner.run(0, x[None], step)[0], x @ weight.t())
    assert meter.kept()[Site.O] == [0]  # prompts are not counted


def test_a_rule_by_thresholds_does_not_start_without_them() -> None:
    rule = InputRule(Decimal("0.5"), weighed=False, share="mean_abs", by_threshold=True)
    pruner = InputPruner(rule, Blocks([0], [], [], {}, {}))
    with pytest.raises(AssertionError, match="needs them"):
        pruner.start(1, Meter(1, torch.device("cpu")))
