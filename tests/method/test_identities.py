"""The seven identities of the method.

test_given_activations.py tests the whole method on given activations.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from decimal import Decimal
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

import naive
import regrow
from fakes import Parts, activation, blocks_of, forward, given_blocks
from families import FAMILIES, NEURONS, VOCABULARY, WIDTH, build
from regrow.adapter.find import find_ffns
from regrow.core import Mode
from regrow.method.base import Method
from regrow.selection.index_set import AGGREGATES, MEMORIES, IndexSet
from regrow.selection.schedule import Schedule
from regrow.session import Session

BATCHES = (1, 4, 7)


# Identity 1


def prompts(rows: int, seed: int = 0) -> list[list[int]]:
    """Return ragged prompts; one has a single token."""
    rng = random.Random(seed)
    return [
        [rng.randrange(3, VOCABULARY) for _ in range(1 if row == 1 else rng.randint(2, 9))]
        for row in range(rows)
    ]


def generate(
    model: object, batch: Sequence[Sequence[int]], method: Method | None, steps: int = 24, **settings: object
) -> regrow.Generation:
    """Return the generation for unpadded prompts; no id is an EOS unless `settings` say so."""
    ids, mask = naive.left_pad(batch, 0)
    given = {
        "max_new_tokens": steps,
        "do_sample": False,
        "eos_token_id": VOCABULARY,
        "pad_token_id": 0,
    } | settings
    return regrow.generate(model, ids, mask, method=method, **given)  # type: ignore[arg-type]


DENSE_AGAIN = {
    "griffin without sparsity": regrow.Griffin(sparsity=0),
    "bap without sparsity": regrow.BatchwiseAdaptive(sparsity="0.0", init_steps=1, period=4),
    "bap without sparse steps": regrow.BatchwiseAdaptive(
        sparsity=0.7, init_steps=1, explore_steps=3, period=3
    ),
}


@pytest.mark.parametrize("rows", BATCHES)
@pytest.mark.parametrize("name", DENSE_AGAIN)
def test_1_without_sparsity_or_without_sparse_steps_it_is_the_dense_model(name: str, rows: int) -> None:
    model, batch = build("qwen2"), prompts(rows)
    ids, mask = naive.left_pad(batch, 0)
    stock = model.generate(
        ids, attention_mask=mask, do_sample=False, max_new_tokens=24, eos_token_id=VOCABULARY, pad_token_id=0
    )
    ours = generate(model, batch, DENSE_AGAIN[name])
    assert torch.equal(ours.sequences, stock)
    assert (ours.report.sparse_steps, ours.report.actual_sparsity) == (0, 0.0)
    pruned = generate(model, batch, regrow.BatchwiseAdaptive(sparsity=0.7, init_steps=1, period=4))
    assert not torch.equal(pruned.sequences, stock)  # pruning changes tokens, so the comparison can fail


# Identity 2


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_2_a_sparse_step_is_the_dense_ffn_with_z_zeroed_outside_the_set(family: str) -> None:
    """On the FFNs of real families in float64, through the session.

    Sums in another order are equal to about 1e-15 of their terms.
    """
    ffns = find_ffns(build(family, torch.float64))
    session = Session(Parts(IndexSet(Decimal("0.7"), Schedule(0, 0, 1))), blocks_of(ffns), record_masks=True)
    session.start(2)
    session.join([0, 1])
    x = torch.randn(2, 5, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    everywhere = lambda _: [session.run(layer, x) for layer in range(len(ffns))]  # noqa: E731
    forward(
        session, torch.arange(2).repeat_interleave(5), everywhere, prompt=True, decode=False, completed=[0, 1]
    )
    outputs: list[Tensor] = []
    sparse = lambda _: outputs.extend(session.run(layer, x[:, :1]) for layer in range(len(ffns)))  # noqa: E731
    assert forward(session, torch.arange(2), sparse) is Mode.SPARSE
    for ffn, layer, kept in zip(ffns, range(len(ffns)), session.masks[0][1], strict=True):
        outside = torch.ones(NEURONS, dtype=torch.bool).index_fill_(0, kept, False)
        z = ffn.hidden(x[:, :1])
        want = ffn.output(z.masked_fill(outside, 0))
        actual = outputs[layer]
        torch.testing.assert_close(
            actual, want, rtol=0, atol=1e-14 * float(functional.linear(z.abs(), ffn.weights.down.abs()).max())
        )
        assert not torch.allclose(actual, ffn.output(z), rtol=1e-3)


# Identity 3


@st.composite
def ragged(draw: st.DrawFn) -> list[Tensor]:
    """Draw the activations [T, F] of the prompts of one batch."""
    lengths = draw(
        st.sampled_from(BATCHES).flatmap(
            lambda rows: st.lists(st.integers(1, 6), min_size=rows, max_size=rows)
        )
    )
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    return [torch.randn(length, 9, generator=generator) for length in lengths]


def scored(batch: Sequence[Tensor], widths: Sequence[int], extra: int = 0) -> Tensor:
    """Return the memory [B, F] after a left-padded prompt with `extra` columns of padding.

    The prompt is fed in chunks of the given widths in turn.
    """
    total = max(map(len, batch)) + extra
    z = torch.full((len(batch), total, 9), 7.0)  # what padding holds does not matter
    slot = torch.full((len(batch), total), -1)
    for row, given_z in enumerate(batch):
        z[row, total - len(given_z) :] = given_z
        slot[row, total - len(given_z) :] = row
    session = Session(Parts(IndexSet(Decimal("0.5"), Schedule(0, 0, 1))), given_blocks(1, 9, torch.float32))
    session.start(len(batch))
    session.join(range(len(batch)))
    start = 0
    while start < total:
        stop = min(total, start + widths[start % len(widths)])
        done = range(len(batch)) if stop == total else ()
        run = partial(session.run, 0, z[:, start:stop])
        forward(
            session,
            slot[:, start:stop].flatten(),
            lambda _, run=run: run(),
            prompt=True,
            decode=False,
            completed=done,
        )
        start = stop
    state = session.pruner.state
    assert state is not None
    return state.memory[0].clone()


@given(
    ragged(),
    st.lists(st.integers(1, 4), min_size=1, max_size=4),
    st.integers(0, 5),
    st.randoms(use_true_random=False),
)
def test_3_scores_do_not_see_padding_row_order_or_chunks(
    batch: list[Tensor], widths: list[int], extra: int, rng: random.Random
) -> None:
    whole = scored(batch, [99])
    torch.testing.assert_close(scored(batch, [99], extra), whole, rtol=1e-5, atol=0)
    torch.testing.assert_close(scored(batch, widths), whole, rtol=1e-5, atol=0)
    order = list(range(len(batch)))
    rng.shuffle(order)
    torch.testing.assert_close(scored([batch[row] for row in order], [99]), whole[order], rtol=1e-5, atol=0)
    alone = torch.cat([scored([row], [99]) for row in batch])
    torch.testing.assert_close(whole, alone, rtol=1e-5, atol=0)


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("closing", [True, False], ids=["a stage ends between the chunks", "no stage ends"])
def test_3_a_stage_of_other_rows_may_end_between_two_chunks(closing: bool, memory: str) -> None:
    """The score of the late row is that of its whole prompt.

    It is neither folded nor zeroed half-way, and it is folded once.
    """
    z = torch.randn(12, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    rule = IndexSet(Decimal("0.5"), Schedule(1 if closing else 9, 0, 4), memory=memory, decay=0.5)
    session = Session(Parts(rule), given_blocks(1, 9))
    session.start(2)
    session.join([0])
    forward(
        session,
        torch.zeros(2, dtype=torch.int64),
        lambda _: session.run(0, z[:2]),
        prompt=True,
        decode=False,
        completed=[0],
    )
    session.join([1])
    late: list[Tensor] = []
    # Every step holds one token of row 0 and two of row 1. The stage ends with the first step.
    for chunk, first in enumerate((2, 5, 8)):
        run = partial(session.run, 0, z[first : first + 3])
        forward(
            session,
            torch.tensor([0, 1, 1]),
            lambda _, run=run: run(),
            prompt=True,
            completed=[1] if chunk == 2 else (),
        )
        late += [z[first + 1], z[first + 2]]
    state = session.pruner.state
    assert state is not None
    assert session.counters.updates == (2 if closing else 0)
    stacked = torch.stack(late)
    want = (stacked / stacked.norm(dim=1, keepdim=True)).square().mean(0).sqrt()
    torch.testing.assert_close(state.memory[0, 1], want)


METHOD = regrow.BatchwiseAdaptive(sparsity=0.6, init_steps=3, explore_steps=2, period=6)


def masks_of(
    batch: Sequence[Sequence[int]], method: Method, **settings: object
) -> tuple[list[tuple[int, list[list[int]]]], list[list[int]]]:
    """Return the masks and the tokens of a greedy run in float64."""
    model = build("qwen2", torch.float64)
    with regrow.prune(model, method, record_masks=True) as session:
        tokens = generate(model, batch, None, **settings).tokens  # type: ignore[arg-type]
        return [(step, index.tolist()) for step, index in session.masks], tokens


@pytest.mark.parametrize("rows", BATCHES)
def test_3_masks_and_tokens_of_a_run_do_not_see_chunks_or_row_order(rows: int) -> None:
    batch = prompts(rows, seed=1)
    masks, tokens = masks_of(batch, METHOD)
    assert len(masks) == 4
    assert masks_of(batch, METHOD, prefill_chunk_size=2) == (masks, tokens)
    assert masks_of(batch[::-1], METHOD) == (masks, tokens[::-1])


# Identity 4


@pytest.mark.parametrize("memory", MEMORIES)
def test_4_over_one_sample_every_aggregate_is_the_same(memory: str) -> None:
    runs = [
        masks_of(
            prompts(1),
            regrow.BatchwiseAdaptive(
                sparsity=0.6, init_steps=3, period=6, aggregate=aggregate, memory=memory
            ),
        )
        for aggregate in AGGREGATES
    ]
    assert runs[0] == runs[1]
    two = [
        masks_of(
            prompts(4),
            regrow.BatchwiseAdaptive(
                sparsity=0.6, init_steps=3, period=6, aggregate=aggregate, memory=memory
            ),
        )
        for aggregate in AGGREGATES
    ]
    assert two[0] != two[1]


@pytest.mark.parametrize("rows", [4, 7])
def test_4_identical_prompts_give_the_masks_of_one(rows: int) -> None:
    masks, tokens = masks_of(prompts(1), METHOD)
    assert masks_of(prompts(1) * rows, METHOD) == (masks, tokens * rows)


# Identity 5, with its definition by counting: test_given_activations.py


@given(st.sampled_from(BATCHES), st.integers(1, 16), st.integers(0, 2**16))
def test_5_the_largest_entry_of_any_sample_is_kept(rows: int, keep: int, seed: int) -> None:
    """If fewer than k entries of mbar exceed it. Ties at the edge may go to a lower index."""
    rng = random.Random(seed)
    session = Session(
        Parts(IndexSet(1 - Decimal(keep) / 16, Schedule(0, 0, 1))), given_blocks(1, 16), record_masks=True
    )
    session.start(rows)
    session.join(range(rows))
    z = torch.tensor([activation(rng, 1, 16)[0] for _ in range(3 * rows)], dtype=torch.float64)
    forward(
        session,
        torch.arange(rows).repeat(3),
        lambda _: session.run(0, z),
        prompt=True,
        decode=False,
        completed=range(rows),
    )
    kept = set(session.masks[0][1][0].tolist())
    relative = (z / z.norm(dim=1, keepdim=True)).nan_to_num(0).reshape(3, rows, 16)
    score = relative.square().mean(0).sqrt()  # [B, F]
    mbar = score.amax(0)
    for row in score:
        for j in (row == row.max()).nonzero().flatten().tolist():
            if int((mbar >= row[j]).sum()) <= keep:
                assert j in kept
    assert len(kept) == keep


# Identity 6


@pytest.mark.parametrize("sparsity", ["0.1", "0.5", "0.7", "0.984375"])
@pytest.mark.parametrize("rows", BATCHES)
def test_6_a_sparse_step_computes_k_neurons_of_every_layer(rows: int, sparsity: str) -> None:
    method = regrow.BatchwiseAdaptive(sparsity=sparsity, init_steps=2, explore_steps=1, period=5)
    keep = naive.kept_count(sparsity, NEURONS)
    masks, _ = masks_of(prompts(rows), method)
    assert len(masks) == 5
    assert all(
        len(set(layer)) == len(layer) == keep and layer == sorted(layer)
        for _, mask in masks
        for layer in mask
    )
    report = generate(build("qwen2", torch.float64), prompts(rows), method).report
    left_out = report.weights_dense - report.weights_kept
    assert left_out == report.sparse_steps * 2 * (NEURONS - keep) * 3 * WIDTH
    # 23 steps: 2 dense, four cycles of 4 sparse and 1 dense, and 1 sparse.
    assert report.sparse_steps == 17


# Identity 7


@pytest.mark.parametrize("period", [1, 3])
@pytest.mark.parametrize("rows", BATCHES)
def test_7_griffin_is_the_method_without_initial_or_later_exploration(rows: int, period: int) -> None:
    method = regrow.BatchwiseAdaptive(sparsity="0.6", init_steps=0, explore_steps=0, period=period)
    masks, tokens = masks_of(prompts(rows), method)
    assert masks_of(prompts(rows), regrow.Griffin(sparsity="0.6")) == (masks, tokens)
    assert [step for step, _ in masks] == [0]


def test_7_over_one_sample_it_is_griffin_with_sum() -> None:
    """Scores are the column norms of the row-normalised Z, from a forward pass of the unpruned model."""
    (prompt,) = prompts(1)
    masks, _ = masks_of([prompt], regrow.Griffin(sparsity="0.6"))
    assert masks == [(0, naive.griffin(build("qwen2", torch.float64), prompt, "0.6"))]
