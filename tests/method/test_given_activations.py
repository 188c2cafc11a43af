"""The whole method on given activations against exact rational arithmetic.

The norm of the given activations is a power of two, and their entries are sixteenths of the norm. Squares and
sums are therefore exact in every dtype, and division and square root are correctly rounded. Equal scores are
then equal in floating point too, and there are many ties.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction

import torch
from hypothesis import given
from hypothesis import strategies as st

from fakes import Activation, Parts, activation, given_blocks
from regrow.core import Mode
from regrow.selection.index_set import IndexSet
from regrow.selection.schedule import Schedule
from regrow.session import Session

BATCHES = (1, 4, 7)
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


# The method in rational arithmetic


@dataclass
class Row:
    """One sample: the tokens of its open phase and the largest squared score of every phase so far."""

    tokens: list[Activation] = field(default_factory=list)
    best: list[list[Fraction]] | None = None  # [L][F]

    def fold(self) -> None:
        """End the phase."""
        if not self.tokens:
            return
        squares = [
            [[Fraction(v * v, max(1, sum(u * u for u in row))) for v in row] for row in token]
            for token in self.tokens
        ]
        score = [
            [sum(column, Fraction(0)) / len(self.tokens) for column in zip(*layer, strict=True)]
            for layer in zip(*squares, strict=True)
        ]
        old = self.best or score
        self.best = [
            [max(pair) for pair in zip(*layer, strict=True)] for layer in zip(old, score, strict=True)
        ]
        self.tokens = []


def retained(rows: Sequence[Row], keep: int) -> list[list[int]]:
    """Return I of every layer by identity 5.

    Neuron j is in I if and only if fewer than k neurons precede it in the order (mbar descending, index
    ascending).
    """
    masks = []
    for layer in zip(*(row.best for row in rows if row.best is not None), strict=True):
        mbar = [max(column) for column in zip(*layer, strict=True)]
        order = [(-value, j) for j, value in enumerate(mbar)]
        masks.append([j for j in range(len(mbar)) if sum(other < order[j] for other in order) < keep])
    return masks


def is_sparse(schedule: Schedule, step: int) -> bool:
    """Return whether a step is sparse, by walking through the stages."""
    step -= schedule.init_steps
    while step > schedule.period:
        step -= schedule.period
    return 0 < step <= schedule.period - schedule.explore_steps


# Batches on given activations


@dataclass(frozen=True)
class Sample:
    """What happens to one sample of a batch."""

    arrives: int  # forward pass of its first chunk
    chunks: tuple[int, ...]  # prompt tokens fed in each forward pass
    padding: int  # padding tokens before the first chunk
    lives: int  # decode steps until its EOS is fed
    leaves: int | None  # decode steps until it leaves; None: it stays


@st.composite
def samples(draw: st.DrawFn) -> Sample:
    """Draw a sample. Samples may arrive together, or while others are already decoding."""
    return Sample(
        arrives=draw(st.sampled_from([0, 0, 0, 1, 3, 6])),
        chunks=tuple(draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))),
        padding=draw(st.sampled_from([0, 0, 1, 3])),
        lives=draw(st.sampled_from([0, 1, 3, 7, 99])),
        leaves=draw(st.sampled_from([None, None, None, 2, 5])),
    )


@st.composite
def rules(draw: st.DrawFn) -> IndexSet:
    """Draw sparsity and schedule with T_p >= 1."""
    period = draw(st.integers(1, 5))
    schedule = Schedule(draw(st.integers(0, 4)), draw(st.integers(0, period - 1)), period)
    return IndexSet(
        Decimal(draw(st.sampled_from(["0.2", "0.5", "0.8"]))), schedule, forget_finished=draw(st.booleans())
    )


@given(
    batch=st.sampled_from(BATCHES).flatmap(lambda rows: st.lists(samples(), min_size=rows, max_size=rows)),
    rule=rules(),
    shape=st.sampled_from([(1, 5), (2, 8), (1, 17)]),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**16),
)
def test_masks_on_given_activations_are_exact(
    batch: list[Sample], rule: IndexSet, shape: tuple[int, int], dtype: torch.dtype, seed: int
) -> None:
    """Every sparse step runs with the set of the definition.

    The prompts of a batch are ragged, chunked and late, and its rows end and leave.
    """
    rng, (layers, neurons) = random.Random(seed), shape
    schedule, keep = rule.schedule, rule.keep(neurons)
    session = Session(Parts(rule), given_blocks(layers, neurons, dtype), record_masks=True)
    session.start(len(batch))
    rows: dict[int, Row] = {}
    chunks = {slot: list(sample.chunks) for slot, sample in enumerate(batch)}
    decoded: dict[int, int] = {}  # decode steps of each row whose prompt is complete
    expected: list[list[int]] = []
    clock = 0
    for forward in range(20):
        joining = [slot for slot, sample in enumerate(batch) if sample.arrives == forward]
        session.join(joining)
        rows |= {slot: Row() for slot in joining}
        filling = [slot for slot in rows if chunks[slot]]
        fed: list[tuple[int, Activation]] = []  # (slot or -1, z) of each token
        for slot in filling:
            if chunks[slot] == list(batch[slot].chunks):
                fed += [(-1, activation(rng, layers, neurons)) for _ in range(batch[slot].padding)]
            fed += [(slot, activation(rng, layers, neurons)) for _ in range(chunks[slot].pop(0))]
        for slot in decoded:
            fed.append((slot if decoded[slot] < batch[slot].lives else -1, activation(rng, layers, neurons)))
            decoded[slot] += 1
        if not fed:
            continue
        decode = bool(decoded)
        clock += decode
        sparse = decode and not filling and is_sparse(schedule, clock)
        slots = torch.tensor([slot for slot, _ in fed])
        planned = session.plan(
            slots, torch.zeros(len(fed), 1, dtype=torch.int64), prompt=bool(filling), decode=decode
        )
        assert planned.mode is (Mode.SPARSE if sparse else Mode.OBSERVE)
        if sparse and not expected:
            return  # no sample is left to select for, so decoding ends
        if sparse:
            assert session.masks[-1][1].tolist() == expected
            with session.running(planned):
                pass
        else:
            # [T, L, F]
            z = torch.tensor([token for _, token in fed], dtype=dtype) * 2.0 ** rng.randint(-3, 3)
            with session.running(planned):
                assert all(
                    torch.equal(session.run(layer, z[:, layer]), z[:, layer]) for layer in range(layers)
                )
            for slot, token in fed:
                if slot >= 0:
                    rows[slot].tokens.append(token)
        completed = [slot for slot in filling if not chunks[slot]]
        decoded |= dict.fromkeys(completed, 0)
        finished = [slot in decoded and decoded[slot] >= batch[slot].lives for slot in range(len(batch))]
        session.commit(planned, completed=completed, finished=torch.tensor(finished))
        closes = decode and not is_sparse(schedule, clock) and is_sparse(schedule, clock + 1)
        for slot in decoded if closes else completed:
            rows[slot].fold()
        if (closes or completed) and is_sparse(schedule, clock + 1):
            counted = [row for slot, row in rows.items() if not (rule.forget_finished and finished[slot])]
            if any(row.best for row in counted):
                expected = retained(counted, keep)
        for slot in [slot for slot in decoded if decoded[slot] == batch[slot].leaves]:
            session.leave([slot])
            del rows[slot], decoded[slot]
