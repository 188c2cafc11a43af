"""Identities of neurons selected at every token, on small integers.

Sums of small integers are exact in any order; only norms are not exact.
"""

from __future__ import annotations

from decimal import Decimal

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import linear, relu

from fakes import GivenFFN
from regrow.core import Blocks, FFNWeights, Mode, Pass, Site
from regrow.pruning.meter import Meter
from regrow.pruning.tokens import TokenPruner, TokenRule

WIDTH, NEURONS, HUGE = 3, 6, 2.0**40
few = settings(max_examples=40)
halves = st.integers(0, 40).map(lambda twice: twice / 2)  # thresholds, equal to values and between values
CATS = [("mean", "threshold"), ("none", "threshold")]
TOKEN = [("max", "topk"), ("mean", "topk")]
rules = st.sampled_from(CATS + TOKEN)


def integers(rows: int, width: int) -> st.SearchStrategy[Tensor]:
    """Draw a float64 matrix of small integers."""
    row = st.lists(st.integers(-5, 5), min_size=width, max_size=width)
    return st.lists(row, min_size=rows, max_size=rows).map(
        lambda values: torch.tensor(values, dtype=torch.float64).view(rows, width)
    )


batches = st.integers(1, 5).flatmap(lambda rows: integers(rows, WIDTH))
ffns = st.tuples(integers(NEURONS, WIDTH), integers(NEURONS, WIDTH), integers(WIDTH, NEURONS))
FFN = tuple[Tensor, Tensor, Tensor]


def hidden(ffn: FFN, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return relu(W_g x) and z, [..., F]."""
    gate = relu(linear(x, ffn[0]))
    return gate, gate * linear(x, ffn[1])


def run(
    ffn: FFN, x: Tensor, share: str, threshold: float | None, live: list[bool] | None = None
) -> tuple[Tensor, int, int]:
    """Return the output [B, D] of a decode step on rows x [B, D], and its weight counts.

    The counts are those of gate and up together, and of down.
    """
    weights = FFNWeights(*ffn, relu)
    module = GivenFFN(weights, hidden=lambda x: hidden(ffn, x)[1], output=lambda z: linear(z, weights.down))
    rule = TokenRule(
        Decimal("0.5"), gated=threshold is not None, share=share, by_threshold=threshold is not None
    )
    limit = None if threshold is None else torch.tensor([threshold], dtype=torch.float64)
    pruner, meter = TokenPruner(rule, Blocks([0], [module], [], {}, {}), limit), Meter(1, x.device)
    pruner.start(len(x), meter)
    slot = torch.arange(len(x)).where(torch.tensor(live or [True] * len(x)), -1)
    step = Pass(Mode.SPARSE, slot, slot[:, None], prompt=False, decode=True)
    pruner.prepare(step)
    y = pruner.run(0, x[:, None], step)[:, 0]
    pruner.commit(step, slot)
    return y, meter.kept()[Site.GATE_UP][0], meter.kept()[Site.DOWN][0]


def limit(how: str, threshold: float) -> float | None:
    return threshold if how == "threshold" else None


@few
@given(ffns, batches, halves)
def test_each_row_of_cats_alone(ffn: FFN, x: Tensor, threshold: float) -> None:
    """The weights read are the whole gate, and up and down of every neuron that any row keeps."""
    gate, z = hidden(ffn, x)
    y, gate_up, down = run(ffn, x, "none", threshold)
    for row, of in zip(x, y, strict=True):
        assert torch.equal(run(ffn, row[None], "none", threshold)[0][0], of)
    assert torch.equal(y, linear(z * (gate > threshold), ffn[2]))
    union = int((gate > threshold).any(0).sum())
    assert (gate_up, down) == ((NEURONS + union) * WIDTH, union * WIDTH)


@few
@given(ffns, batches, halves)
def test_a_shared_mask_of_cats_is_of_the_mean(ffn: FFN, x: Tensor, threshold: float) -> None:
    gate, z = hidden(ffn, x)
    keep = gate.sum(0) > threshold * len(x)
    y, gate_up, down = run(ffn, x, "mean", threshold)
    assert torch.equal(y, linear(z * keep, ffn[2]))
    assert (gate_up, down) == ((NEURONS + int(keep.sum())) * WIDTH, int(keep.sum()) * WIDTH)


@few
@given(ffns, integers(1, WIDTH), halves)
def test_of_one_row_every_share_is_the_same(ffn: FFN, x: Tensor, threshold: float) -> None:
    for shares, how in ((("mean", "none", "max"), threshold), (("mean", "max", "none"), None)):
        (y, *counts), *others = (run(ffn, x, share, how) for share in shares)
        for other, *same in others:
            assert torch.equal(other, y)
            assert same == counts


@few
@given(ffns, batches, st.sampled_from(TOKEN))
def test_every_token_keeps_k_and_computes_gate_and_up(ffn: FFN, x: Tensor, rule: tuple[str, str]) -> None:
    _, gate_up, down = run(ffn, x, rule[0], None)
    assert (gate_up, down) == (2 * NEURONS * WIDTH, NEURONS // 2 * WIDTH)


@few
@given(ffns, integers(1, WIDTH), st.sampled_from(TOKEN))
def test_every_token_keeps_the_largest_of_z(ffn: FFN, x: Tensor, rule: tuple[str, str]) -> None:
    """The norm of a single row does not change the order of its neurons. Ties go to the lower index."""
    _, z = hidden(ffn, x)
    best = sorted(range(NEURONS), key=lambda j: (-abs(float(z[0, j])), j))[: NEURONS // 2]
    kept = torch.zeros(NEURONS).index_fill_(0, torch.tensor(best), 1)
    assert torch.equal(run(ffn, x, rule[0], None)[0], linear(z * kept, ffn[2]))


@few
@given(ffns, batches, st.sampled_from(TOKEN), st.integers(0, 4), st.integers(-9, 9))
def test_how_large_a_row_is_does_not_matter_to_every_token(
    ffn: FFN, x: Tensor, rule: tuple[str, str], row: int, power: int
) -> None:
    """The normalised z of a row stays the same bit for bit if z is multiplied by a power of four."""
    scaled, row = x.clone(), row % len(x)
    scaled[row] *= 2.0**power
    want, y = run(ffn, x, rule[0], None)[0], run(ffn, scaled, rule[0], None)[0]
    want[row] *= 4.0**power
    assert torch.equal(y, want)


@few
@given(ffns, integers(1, WIDTH), halves, rules, st.integers(2, 5))
def test_identical_rows_are_as_one(
    ffn: FFN, x: Tensor, threshold: float, rule: tuple[str, str], rows: int
) -> None:
    """Only two rows for the mean of normalised scores, because the mean of two equal values is exact."""
    (share, how), rows = rule, 2 if rule == TOKEN[1] else rows
    y, *counts = run(ffn, x.expand(rows, -1), share, limit(how, threshold))
    one, *alone = run(ffn, x, share, limit(how, threshold))
    assert torch.equal(y, one.expand(rows, -1))
    assert counts == alone


@few
@given(ffns, batches, halves, rules, st.data())
def test_rows_that_are_not_live_do_not_matter(
    ffn: FFN, x: Tensor, threshold: float, rule: tuple[str, str], data: st.DataObject
) -> None:
    share, how = rule
    live = data.draw(st.lists(st.booleans(), min_size=len(x), max_size=len(x)).filter(any))
    poisoned = x.where(torch.tensor(live)[:, None], HUGE)
    y, *counts = run(ffn, poisoned, share, limit(how, threshold), live)
    want, *alone = run(ffn, x[live], share, limit(how, threshold))
    assert torch.equal(y[live], want)
    assert counts == alone


@few
@given(ffns, batches, halves, st.sampled_from([*CATS, TOKEN[0]]), st.data())
def test_the_order_of_rows_does_not_matter(
    ffn: FFN, x: Tensor, threshold: float, rule: tuple[str, str], data: st.DataObject
) -> None:
    """Not tested for the mean of normalised scores, whose sum is not exact."""
    share, how = rule
    order = data.draw(st.permutations(range(len(x))))
    y, *counts = run(ffn, x[order], share, limit(how, threshold))
    want, *same = run(ffn, x, share, limit(how, threshold))
    assert torch.equal(y, want[order])
    assert counts == same
