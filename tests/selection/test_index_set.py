"""Scores, memories, aggregates and selection on given activations, against the equations in a few lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from decimal import Decimal

import pytest
import torch
from torch import Tensor

from regrow.core import Rows, Spec
from regrow.errors import UsageError
from regrow.selection.index_set import AGGREGATES, MEMORIES, IndexSet, IndexState
from regrow.selection.schedule import Schedule

LAYERS, SLOTS, NEURONS = 2, 3, 11
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
ROUNDING = 1e-5  # relative; allowed for scores in float32, and ample for float64
EVERY = range(SLOTS)

Tokens = Sequence[tuple[int, Tensor]]  # (slot or -1, z [L, F]) of each token of a forward pass


def rule(aggregate: str = "max", memory: str = "max", sparsity: str = "0.5", decay: float = 0.75) -> IndexSet:
    return IndexSet(Decimal(sparsity), Schedule(2, 1, 4), aggregate=aggregate, memory=memory, decay=decay)


def begin(parts: IndexSet, dtype: torch.dtype = torch.float64) -> IndexState:
    scores = torch.float64 if dtype == torch.float64 else torch.float32
    return parts.init(Spec(LAYERS, NEURONS, SLOTS, torch.device("cpu"), scores))


def flags(slots: Sequence[int]) -> Tensor:
    return torch.tensor([slot in slots for slot in range(SLOTS)])


def feed(parts: IndexSet, state: IndexState, tokens: Tokens) -> None:
    """Counts and observes the tokens of one forward pass in every layer."""
    slot = torch.tensor([slot for slot, _ in tokens])
    parts.open(state)
    for layer in range(LAYERS):
        parts.observe(state, layer, torch.stack([z[layer] for _, z in tokens]), slot)
    parts.commit(state, slot)


def fold(parts: IndexSet, state: IndexState, ended: Sequence[int] = EVERY) -> None:
    parts.fold(state, Rows(ended=flags(ended), occupied=flags(EVERY), finished=flags(())))


def select(parts: IndexSet, state: IndexState, counted: Sequence[int] = EVERY) -> list[list[int]]:
    parts.select(state, Rows(ended=flags(()), occupied=flags(counted), finished=flags(())))
    return state.index.tolist()


def draw(seed: int, slots: Sequence[int], dtype: torch.dtype = torch.float64) -> Tokens:
    noise = torch.randn(
        len(slots), LAYERS, NEURONS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ).to(dtype)
    return list(zip(slots, noise, strict=True))


def score(tokens: Tokens, slot: int) -> Tensor:
    """Return s [L, F] of one sample in float64: the root mean square over its tokens of z / ||z||."""
    mine = torch.stack([z for owner, z in tokens if owner == slot]).double()  # [T_b, L, F]
    relative = mine / mine.square().sum(dim=-1, keepdim=True).sqrt()
    return relative.nan_to_num(0).square().mean(dim=0).sqrt()


def close(actual: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(actual.double(), want, rtol=ROUNDING, atol=0)


def top(scores: Tensor, keep: int) -> list[list[int]]:
    """Return the k largest of each row of [L, F] in ascending order; ties go to the lower index."""
    return [sorted(sorted(range(NEURONS), key=lambda j: (-row[j], j))[:keep]) for row in scores.tolist()]


# Scores


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_score_is_the_root_mean_square_of_normalised_activations(dtype: torch.dtype) -> None:
    parts, tokens = rule(), draw(0, [0, 1, 1, 2, 0, 1, 1], dtype)
    state = begin(parts, dtype)
    feed(parts, state, tokens[:3])
    feed(parts, state, tokens[3:])
    assert state.tokens.tolist() == [2, 4, 1]
    fold(parts, state)
    for slot in EVERY:
        close(state.memory[:, slot], score(tokens, slot))


def test_the_size_of_an_activation_does_not_matter() -> None:
    tokens = draw(1, [0, 1, 2, 2])
    states = []
    for scale in (1.0, 2.0**40):
        states.append(begin(rule()))
        feed(rule(), states[-1], [(slot, z * scale) for slot, z in tokens])
        fold(rule(), states[-1])
    assert torch.equal(states[0].memory, states[1].memory)  # a power of two: exact


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_norm_is_taken_in_float32_at_least(dtype: torch.dtype) -> None:
    """In float16 the square of 300 overflows. In bfloat16 the squares of 0.0625 vanish beside that of 256."""
    z = torch.full((LAYERS, NEURONS), 300.0 if dtype == torch.float16 else 0.0625, dtype=dtype)
    z[:, 0] = 256.0
    state = begin(rule(), dtype)
    feed(rule(), state, [(0, z)])
    fold(rule(), state, [0])
    close(state.memory[:, 0], score([(0, z)], 0))


def test_tokens_that_do_not_count_leave_no_trace() -> None:
    """Not even if they hold NaN or infinity, as padding may."""
    tokens = draw(2, [0, 1, 2])
    plain, mixed = begin(rule()), begin(rule())
    feed(rule(), plain, tokens)
    noise = [(-1, torch.full_like(tokens[0][1], value)) for value in (torch.nan, torch.inf, 1e300)]
    feed(rule(), mixed, [noise[0], tokens[0], noise[1], tokens[1], tokens[2], noise[2]])
    assert torch.equal(plain.total, mixed.total)
    assert torch.equal(plain.tokens, mixed.tokens)


def test_a_zero_activation_counts_as_a_token_and_adds_nothing() -> None:
    tokens = draw(3, [0])
    state = begin(rule())
    feed(rule(), state, [*tokens, (0, torch.zeros(LAYERS, NEURONS, dtype=torch.float64))])
    assert state.tokens.tolist() == [2, 0, 0]
    fold(rule(), state)
    close(state.memory[:, 0], score(tokens, 0) / 2**0.5)


# Memories


def phases(memory: str) -> tuple[IndexState, list[Tokens]]:
    """Run three phases of three slots. Slot 1 has no token in the second phase, slot 2 none in the third."""
    parts = rule(memory=memory)
    state, told = begin(parts), [draw(4, [0, 1, 2, 2]), draw(5, [0, 0, 2]), draw(6, [1, 0])]
    for tokens in told:
        feed(parts, state, tokens)
        fold(parts, state)
    return state, told


def test_max_memory_is_the_largest_score_of_any_phase() -> None:
    state, (first, second, third) = phases("max")
    close(state.memory[:, 0], torch.stack([score(t, 0) for t in (first, second, third)]).amax(0))
    close(state.memory[:, 1], torch.maximum(score(first, 1), score(third, 1)))
    close(state.memory[:, 2], torch.maximum(score(first, 2), score(second, 2)))
    assert state.known.tolist() == [True, True, True]


def test_no_memory_is_the_score_of_the_latest_phase_and_a_row_without_tokens_does_not_count() -> None:
    state, (_, _, third) = phases("none")
    close(state.memory[:, 0], score(third, 0))
    close(state.memory[:, 1], score(third, 1))
    assert state.known.tolist() == [True, True, False]
    both = torch.stack([score(third, 0), score(third, 1)])
    assert select(rule(memory="none"), state) == top(both.amax(0), 5)


def test_ema_memory_starts_with_the_first_score_and_skips_phases_without_tokens() -> None:
    state, (first, second, third) = phases("ema")
    close(
        state.memory[:, 0], 0.75 * (0.75 * score(first, 0) + 0.25 * score(second, 0)) + 0.25 * score(third, 0)
    )
    close(state.memory[:, 1], 0.75 * score(first, 1) + 0.25 * score(third, 1))
    close(state.memory[:, 2], 0.75 * score(first, 2) + 0.25 * score(second, 2))


@pytest.mark.parametrize("memory", MEMORIES)
def test_a_phase_that_goes_on_is_neither_folded_nor_zeroed(memory: str) -> None:
    parts, tokens = rule(memory=memory), draw(7, [0, 1, 1, 2])
    state = begin(parts)
    feed(parts, state, tokens)
    before = state.total.clone()
    fold(parts, state, [0, 2])
    assert state.tokens.tolist() == [0, 2, 0]
    assert torch.equal(state.total[:, 1], before[:, 1])
    assert not state.total[:, [0, 2]].any()
    assert not state.memory[:, 1].any()
    assert state.known.tolist() == [True, False, True]
    later = draw(8, [1])
    feed(parts, state, later)
    fold(parts, state, [1])
    close(state.memory[:, 1], score([*tokens, *later], 1))


@pytest.mark.parametrize("memory", MEMORIES)
def test_a_forgotten_slot_is_as_new_and_the_others_stay(memory: str) -> None:
    parts, tokens = rule(memory=memory), draw(9, [0, 1, 2, 0])
    state = begin(parts)
    feed(parts, state, tokens)
    fold(parts, state)
    feed(parts, state, tokens)
    kept = state.memory[:, [0, 2]].clone()
    parts.forget(state, flags([1]))
    assert state.known.tolist() == [True, False, True]
    assert state.tokens.tolist() == [2, 0, 1]
    assert torch.equal(state.memory[:, [0, 2]], kept)
    later = draw(10, [1, 1])
    feed(parts, state, later)
    fold(parts, state, [1])
    close(state.memory[:, 1], score(later, 1))


# Selection


@pytest.mark.parametrize("sparsity", ["0", "0.3", "0.5", "0.9"])
@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_the_k_largest_of_the_aggregate_are_kept(aggregate: str, sparsity: str) -> None:
    parts, tokens = rule(aggregate, sparsity=sparsity), draw(11, [0, 1, 2, 2])
    state = begin(parts)
    feed(parts, state, tokens)
    fold(parts, state)
    for counted in ([0, 1, 2], [0, 2], [1]):
        rows = torch.stack([score(tokens, slot) for slot in counted])
        wanted = rows.amax(0) if aggregate == "max" else rows.mean(0)
        assert select(parts, state, counted) == top(wanted, state.index.shape[1])


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_ties_go_to_the_lower_index(aggregate: str) -> None:
    state = begin(rule(aggregate))
    order = [4, 1, 4, 9, 4, 0, 0, 4, 1, 4, 4]
    state.memory[:, 0] = torch.tensor(order, dtype=torch.float64)
    state.known[0] = True
    assert select(rule(aggregate), state) == [[0, 2, 3, 4, 7]] * LAYERS
    state.memory[:, 0] = 0
    assert select(rule(aggregate), state) == [[0, 1, 2, 3, 4]] * LAYERS


def test_the_largest_entry_of_any_sample_is_kept_by_the_maximum_and_not_by_the_mean() -> None:
    memory = torch.zeros(SLOTS, NEURONS, dtype=torch.float64)
    memory[:, :5] = 0.5
    memory[2, 10] = 0.9
    kept = {}
    for aggregate in AGGREGATES:
        state = begin(rule(aggregate))
        state.memory[:], state.known[:] = memory, True
        kept[aggregate] = select(rule(aggregate), state)
    assert kept == {"max": [[0, 1, 2, 3, 10]] * LAYERS, "mean": [[0, 1, 2, 3, 4]] * LAYERS}


def test_nothing_changes_where_no_row_counts() -> None:
    parts, state = rule(), begin(rule())
    feed(parts, state, draw(12, [0, 1]))
    fold(parts, state)
    chosen, turnover = select(parts, state), state.turnover.clone()
    feed(parts, state, draw(13, [0, 1]))
    fold(parts, state)
    assert select(parts, state, [2]) == chosen  # slot 2 has never had a token
    assert select(parts, state, []) == chosen
    assert torch.equal(state.turnover, turnover)
    assert select(parts, state) != chosen


def test_turnover_is_what_left_of_k() -> None:
    parts, state = rule(), begin(rule())
    sets = [{0, 1, 2, 3, 4}, {0, 1, 2, 3, 10}, {5, 6, 7, 8, 9}, {5, 6, 7, 8, 9}]
    state.known[0] = True
    sums = []
    for chosen in sets:
        state.memory[:, 0] = torch.tensor([float(j in chosen) for j in range(NEURONS)], dtype=torch.float64)
        assert select(parts, state) == [sorted(chosen)] * LAYERS
        sums.append(state.turnover.tolist())
    for actual, want in zip(sums, (0, 1 / 5, 6 / 5, 6 / 5), strict=True):
        assert actual == pytest.approx([want] * LAYERS)


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_buffers_keep_their_addresses(aggregate: str, memory: str) -> None:
    parts = rule(aggregate, memory)
    state = begin(parts)
    addresses = [getattr(state, field.name).data_ptr() for field in fields(state)]
    for seed in range(3):
        feed(parts, state, draw(seed, [0, 1, -1, 2]))
        fold(parts, state)
        select(parts, state)
        parts.forget(state, flags([seed]))
        assert [getattr(state, field.name).data_ptr() for field in fields(state)] == addresses


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"aggregate": "sum"}, "unknown aggregate 'sum'; choose one of max, mean"),
        ({"memory": "min"}, "unknown memory 'min'; choose one of max, none, ema"),
        ({"decay": 1.5}, r"decay must lie in \[0, 1\], not 1.5"),
        ({"decay": -0.1}, r"decay must lie in \[0, 1\], not -0.1"),
        ({"decay": float("nan")}, r"decay must lie in \[0, 1\], not nan"),
        ({"sparsity": "0.99"}, "keeps none of 11 neurons"),
    ],
)
def test_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        begin(rule(**change))  # type: ignore[arg-type]
