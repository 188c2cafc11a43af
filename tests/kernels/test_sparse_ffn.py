"""The compact FFN after any history of loads.

It is compared with the reference, and with the dense FFN whose z is zeroed outside the retained set.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from regrow.core import FFNWeights
from regrow.kernels import sparse_ffn
from regrow.kernels.pruned_ffn import reference
from regrow.kernels.pruned_ffn.compact import CompactFFN

ACTS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_tanh": partial(functional.gelu, approximate="tanh"),
    "relu": torch.relu,
}
BIASES = {"none": (), "gate": ("gate",), "up": ("up",), "down": ("down",), "all": ("gate", "up", "down")}
STATM = Path("/proc/self/statm")
SIZES = [(1, 1), (7, 3), (8, 16), (33, 5), (64, 32)]  # F, D


def random(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def ffn(
    neurons: int,
    width: int,
    act: str = "silu",
    biases: Sequence[str] = (),
    dtype: torch.dtype = torch.float64,
) -> FFNWeights:
    make = partial(random, dtype=dtype)
    return FFNWeights(
        gate=make(0, neurons, width),
        up=make(1, neurons, width),
        down=make(2, width, neurons),
        act=ACTS[act],
        gate_bias=make(3, neurons) if "gate" in biases else None,
        up_bias=make(4, neurons) if "up" in biases else None,
        down_bias=make(5, width) if "down" in biases else None,
    )


def zeroed(w: FFNWeights, index: Tensor, x: Tensor) -> Tensor:
    """Computes the dense FFN with z zeroed outside the retained set."""
    z = w.act(functional.linear(x, w.gate, w.gate_bias)) * functional.linear(x, w.up, w.up_bias)
    outside = torch.ones(len(w.gate), dtype=torch.bool)
    outside[index] = False
    return functional.linear(z.masked_fill(outside, 0), w.down, w.down_bias)


def retained(seed: int, neurons: int, keep: int) -> Tensor:
    return torch.randperm(neurons, generator=torch.Generator().manual_seed(seed))[:keep].sort().values


def compact(w: FFNWeights, keep: int) -> CompactFFN:
    return sparse_ffn(w, keep, torch.empty(keep, w.gate.shape[1], dtype=w.gate.dtype))


def close(actual: Tensor, want: Tensor, w: FFNWeights, x: Tensor) -> None:
    """Asserts equality up to 16 roundings of the largest sum of magnitudes.

    The order of the sums is free, and a sum may be small where its terms cancel.
    """
    z = w.act(functional.linear(x, w.gate, w.gate_bias)) * functional.linear(x, w.up, w.up_bias)
    terms = functional.linear(z.abs(), w.down.abs(), None if w.down_bias is None else w.down_bias.abs())
    torch.testing.assert_close(actual, want, rtol=0, atol=16 * torch.finfo(x.dtype).eps * float(terms.max()))


@pytest.mark.parametrize("biases", BIASES)
@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize(("neurons", "width"), SIZES)
def test_equals_the_reference_and_the_zeroed_dense_ffn(
    neurons: int, width: int, act: str, biases: str
) -> None:
    w, x = ffn(neurons, width, act, BIASES[biases]), random(6, 3, width)
    for keep in sorted({1, (neurons + 1) // 2, neurons}):
        ours, index = compact(w, keep), retained(keep, neurons, keep)
        assert ours.load(index) == keep
        close(ours(x), reference.sparse_ffn(w, index, x), w, x)
        close(ours(x), zeroed(w, index, x), w, x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_agrees_in_every_dtype(dtype: torch.dtype) -> None:
    w, x, index = (
        ffn(33, 5, biases=BIASES["all"], dtype=dtype),
        random(6, 3, 5, dtype=dtype),
        retained(0, 33, 16),
    )
    ours = compact(w, 16)
    ours.load(index)
    assert ours(x).dtype == dtype
    close(ours(x), reference.sparse_ffn(w, index, x), w, x)
    close(ours(x), zeroed(w, index, x), w, x)


@pytest.mark.parametrize("shape", [(5,), (1, 5), (4, 1, 5), (2, 3, 5)])
def test_takes_any_leading_shape(shape: tuple[int, ...]) -> None:
    w, index, x = ffn(9, 5, biases=BIASES["all"]), retained(0, 9, 4), random(6, *shape)
    ours = compact(w, 4)
    ours.load(index)
    assert ours(x).shape == shape
    close(ours(x), zeroed(w, index, x), w, x)


def test_reads_the_halves_of_a_fused_weight() -> None:
    w, x, index = ffn(9, 5), random(6, 2, 5), retained(0, 9, 4)
    gate, up = torch.cat([w.gate, w.up]).tensor_split(2)
    ours = compact(FFNWeights(gate, up, w.down, w.act), 4)
    ours.load(index)
    close(ours(x), zeroed(w, index, x), w, x)


# Histories: None stands for `forget`, a list for a set to load


@st.composite
def histories(draw: st.DrawFn) -> tuple[int, int, list[list[int] | None]]:
    neurons = draw(st.integers(1, 12))
    keep = draw(st.integers(1, neurons))
    sets = st.sets(st.integers(0, neurons - 1), min_size=keep, max_size=keep).map(sorted)
    return neurons, keep, draw(st.lists(st.one_of(st.none(), sets, sets, sets), min_size=1, max_size=8))


@given(histories(), st.sampled_from(sorted(BIASES)))
def test_any_history_of_loads_gives_what_a_fresh_copy_gives(
    history: tuple[int, int, list[list[int] | None]], biases: str
) -> None:
    """`load` copies exactly the new neurons; after `forget`, it copies all of them."""
    neurons, keep, steps = history
    w, x = ffn(neurons, 3, biases=BIASES[biases]), random(6, 2, 3)
    ours, held = compact(w, keep), set[int]()
    for step in steps:
        if step is None:
            ours.forget()
            held = set()
            continue
        assert ours.load(torch.tensor(step)) == len(set(step) - held)
        held = set(step)
        fresh = compact(w, keep)
        fresh.load(torch.tensor(step))
        close(ours(x), fresh(x), w, x)
        close(ours(x), zeroed(w, torch.tensor(step), x), w, x)


def test_after_forget_the_copy_does_not_depend_on_what_came_before() -> None:
    """Results agree bit for bit, because neurons, and so the sums of down, are in a fresh copy's order."""
    w, x = ffn(64, 32), random(6, 3, 32)
    used, fresh = compact(w, 32), compact(w, 32)
    for seed in range(5):
        used.load(retained(seed, 64, 32))
    used.forget()
    index = retained(9, 64, 32)
    assert used.load(index) == fresh.load(index) == 32
    assert torch.equal(used(x), fresh(x))


def test_the_index_may_change_in_place_afterwards() -> None:
    """Every selection overwrites the session's index buffer."""
    w, x, index = ffn(9, 5), random(6, 2, 5), torch.tensor([0, 1, 2])
    ours = compact(w, 3)
    ours.load(index)
    index.copy_(torch.tensor([0, 4, 5]))
    assert ours.load(index) == 2
    close(ours(x), zeroed(w, index, x), w, x)


def test_buffers_keep_their_addresses() -> None:
    ours = compact(ffn(16, 8, biases=BIASES["all"]), 6)
    ours.load(retained(0, 16, 6))
    addresses = {name: value.data_ptr() for name, value in vars(ours).items() if isinstance(value, Tensor)}
    assert len(addresses) >= 4  # gate and up, down, biases, scratch rows
    for seed in range(1, 6):
        ours.load(retained(seed, 16, 6))
        ours(random(6, 2, 8))
        assert {
            name: value.data_ptr() for name, value in vars(ours).items() if isinstance(value, Tensor)
        } == addresses


def test_layers_may_share_the_scratch_rows() -> None:
    scratch, x = torch.empty(6, 8, dtype=torch.float64), random(6, 2, 8)
    layers = [ffn(16, 8), ffn(16, 8, "gelu", BIASES["all"])]
    ours = [sparse_ffn(w, 6, scratch) for w in layers]
    for seed in range(3):
        index = retained(seed, 16, 6)
        for one in ours:
            one.load(index)
        for one, w in zip(ours, layers, strict=True):
            close(one(x), zeroed(w, index, x), w, x)


def test_state_bytes_are_those_of_the_copy_and_of_the_neuron_major_down() -> None:
    assert compact(ffn(16, 8, dtype=torch.float32), 6).state_bytes == 4 * 8 * (3 * 6 + 16)


def test_the_weights_of_the_model_are_left_alone() -> None:
    w = ffn(16, 8, biases=BIASES["all"])
    before = [t.clone() for t in (w.gate, w.up, w.down)]
    ours = compact(w, 6)
    for seed in range(3):
        ours.load(retained(seed, 16, 6))
        ours(random(6, 2, 8))
    assert all(torch.equal(a, b) for a, b in zip((w.gate, w.up, w.down), before, strict=True))


@pytest.mark.skipif(not STATM.exists(), reason="the resident memory is read from Linux's /proc")
def test_the_copies_take_their_memory_at_once() -> None:
    """A server sizes its KV cache by what is resident before the first selection.

    What other tests have freed goes back to the system first, because malloc would reuse it.
    """
    neurons, width = 4096, 2048
    one = torch.zeros(1, 1)
    wide, tall = one.expand(neurons, width), one.expand(width, neurons)
    ctypes.CDLL(None).malloc_trim(0)
    before = resident()
    compact = CompactFFN(FFNWeights(wide, wide, tall, functional.silu), neurons, torch.empty(0))
    assert resident() - before > 0.95 * compact.state_bytes


def resident() -> int:
    """Return the bytes of this process that are in memory."""
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
