"""Neurons that are split over shards: what every shard adds to the scores, and what it keeps and returns."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from decimal import Decimal
from threading import Barrier

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import silu

from fakes import GivenFFN, Parts, blocks_of, forward
from regrow import kernels
from regrow.core import FFNWeights, Mode
from regrow.selection.index_set import IndexSet
from regrow.selection.schedule import Schedule
from regrow.session import Session

# Relative. The norm and its square are rounded to float64 on the way, and so are the quotient and its square:
# ten roundings at most, besides those of sums of up to 40 positive terms.
RTOL = 64 * torch.finfo(torch.float64).eps


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def halves(z: Tensor) -> list[tuple[Tensor, Callable[[Tensor], Tensor]]]:
    """Return each half of the neurons of z, with a sum over both: it adds the other half's squared norms."""
    both = z.tensor_split(2, dim=-1)
    return [
        (own, lambda squares, other=other: squares + other.square().sum(-1, keepdim=True))
        for own, other in (both, both[::-1])
    ]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 20), st.integers(1, 200), st.booleans())
def test_halves_add_the_halves_of_what_the_whole_adds(
    seed: int, width: int, tokens: int, layered: bool
) -> None:
    z = normal(*((2, tokens) if layered else (tokens,)), 2 * width, seed=seed)
    z[..., 0, :] = 0
    slot = torch.randint(-1, 3, (tokens,), generator=torch.Generator().manual_seed(seed))
    before = normal(*((2, 3) if layered else (3,)), 2 * width, seed=seed + 1).square()
    whole, parts = before.clone(), []
    kernels.observe(z, slot, whole)
    for (own, reduce), total in zip(halves(z), before.clone().tensor_split(2, dim=-1), strict=True):
        kernels.observe(own, slot, total, reduce)
        parts.append(total)
    torch.testing.assert_close(torch.cat(parts, dim=-1), whole, rtol=RTOL, atol=0)


@pytest.mark.parametrize("zeroed", [0, 1])
def test_a_token_without_activations_in_one_shard_counts_in_the_other(zeroed: int) -> None:
    z, total = normal(1, 6), torch.zeros(1, 6, dtype=torch.float64)
    z.tensor_split(2, dim=-1)[zeroed].zero_()
    for (own, reduce), part in zip(halves(z), total.tensor_split(2, dim=-1), strict=True):
        kernels.observe(own, torch.tensor([0]), part, reduce)
    torch.testing.assert_close(total, z.square() / z.square().sum(), rtol=RTOL, atol=0)


class Shards:
    """Sums over two shards that run in threads of their own."""

    def __init__(self) -> None:
        self.barrier, self.given = Barrier(2, timeout=60), [torch.empty(0)] * 2

    def reduce(self, shard: int, own: Tensor) -> Tensor:
        self.given[shard] = own.clone()
        self.barrier.wait()
        summed = self.given[0] + self.given[1]
        self.barrier.wait()
        return summed


NEURONS, WIDTH, SLOTS = 12, 4, 3


def weights(start: int, end: int) -> FFNWeights:
    gate, up, down = normal(NEURONS, WIDTH), normal(NEURONS, WIDTH, seed=1), normal(WIDTH, NEURONS, seed=2)
    return FFNWeights(gate[start:end], up[start:end], down[:, start:end], silu)


def ran(own: FFNWeights, reduce: Callable[[Tensor], Tensor] | None) -> tuple[list[Tensor], Session]:
    """Run a prompt and seven decode steps, of which the last is sparse, through one FFN.

    Return its outputs and the session.
    """

    def hidden(x: Tensor) -> Tensor:
        return silu(x @ own.gate.t()) * (x @ own.up.t())

    def output(z: Tensor) -> Tensor:
        y = z @ own.down.t()
        return y if reduce is None else reduce(y)

    blocks = replace(blocks_of([GivenFFN(own, hidden=hidden, output=output)]), reduce=reduce)
    session = Session(Parts(IndexSet(Decimal("0.5"), Schedule(2, 1, 3))), blocks, record_masks=True)
    session.start(SLOTS)
    session.join(range(SLOTS))
    slot, outputs = torch.arange(SLOTS), []

    def run(mode: Mode) -> None:
        outputs.append(session.run(0, normal(SLOTS, WIDTH, seed=len(outputs))))

    forward(session, slot, run, prompt=True, decode=False, completed=range(SLOTS))
    for _ in range(7):
        forward(session, slot, run)
    return outputs, session


def test_shards_keep_the_largest_of_their_neurons_and_sum_their_outputs() -> None:
    """Both shards keep half of their neurons, by scores that are those of the whole layer."""
    half, shards = NEURONS // 2, Shards()
    _, whole = ran(weights(0, NEURONS), None)

    def shard(place: int) -> tuple[list[Tensor], Session]:
        own = weights(place * half, (place + 1) * half)
        return ran(own, lambda tensor: shards.reduce(place, tensor))

    with ThreadPoolExecutor(2) as pool:
        (outputs, first), (same, second) = pool.map(shard, range(2))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(outputs, same, strict=True))
    memory = torch.cat([first.pruner.memory.remembered, second.pruner.memory.remembered], dim=-1)
    torch.testing.assert_close(memory, whole.pruner.memory.remembered, rtol=RTOL, atol=0)
    assert len(first.masks) == len(second.masks) == 2
    kept = torch.cat([first.masks[-1][1][0], second.masks[-1][1][0] + half])
    best = [block.topk(half // 2).indices for block in memory[0].amax(dim=0).split(half)]
    assert kept.tolist() == sorted([*best[0].tolist(), *(best[1] + half).tolist()])
    # In the sparse step, the output is that of the kept neurons of both shards.
    all_of, x = weights(0, NEURONS), normal(SLOTS, WIDTH, seed=7)
    z = silu(x @ all_of.gate[kept].t()) * (x @ all_of.up[kept].t())
    torch.testing.assert_close(outputs[-1], z @ all_of.down[:, kept].t())
