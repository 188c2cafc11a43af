"""Replays of recorded kernel calls.

They compute what the step computes from the current contents of its buffers. Steps that a replay could not
repeat are not recorded.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.compiled_here import COMPILED
from regrow.kernels import LaidOutWeight, add_rms_norm, can_lay_out, record
from regrow.kernels.checksums import cpu as checksum
from regrow.kernels.gate import cpu as gate

pytestmark = COMPILED
EPS = 1e-6


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Step:
    """A small step with kernels, views, new tensors and the writes of a decode step."""

    def __init__(self) -> None:
        self.ids, self.table, self.weight = (
            torch.zeros(2, dtype=torch.int64),
            normal(5, 64),
            normal(64, seed=1),
        )
        self.residual, self.normed, self.kept = torch.zeros(2, 64), torch.zeros(2, 64), torch.zeros(2, 64)

    def __call__(self) -> Tensor:
        torch.index_select(self.table, 0, self.ids.view(-1), out=self.residual)
        add_rms_norm(None, self.residual, self.weight, EPS, self.normed)
        y = gate.gated(self.normed, self.residual)
        self.kept.copy_(y)
        return gate.gated(y, self.normed.view(1, 2, 64)[0])


def test_replays_give_the_bits_of_the_step_on_what_there_is_then() -> None:
    step, plain = Step(), Step()
    recorded = record(step)
    assert recorded is not None
    replay, result = recorded
    for ids in ([1, 2], [4, 0]):
        for one in (step, plain):
            one.ids.copy_(torch.tensor(ids))
        replay()
        assert torch.equal(result, plain())
        assert torch.equal(step.kept, plain.kept)
    step.table.zero_()
    replay()
    assert not result.any()


def test_recording_runs_nothing() -> None:
    step = Step()
    step.residual.fill_(7)
    assert record(step) is not None
    assert (step.residual == 7).all()
    assert not step.kept.any()
    step()  # kernels run again
    assert step.kept.any()


@pytest.mark.parametrize("dtype", list(filter(can_lay_out, (torch.float32, torch.bfloat16))))
def test_a_product_with_a_bias(dtype: torch.dtype) -> None:
    weight, bias, x = (
        LaidOutWeight(normal(128, 64).to(dtype), most=64),
        normal(128, seed=1).to(dtype),
        normal(3, 64, seed=2).to(dtype),
    )
    recorded = record(lambda: weight(x, bias))
    if not weight.most:
        assert recorded is None  # oneDNN's matmul
        return
    assert recorded is not None
    recorded[0]()
    assert torch.equal(recorded[1], weight(x, bias))


@pytest.mark.parametrize(
    "more",
    [
        pytest.param(lambda y: y + 1, id="an operation of torch's"),
        pytest.param(lambda y: y.add_(1), id="one in place"),
        pytest.param(lambda y: y * float(y[0, 0]), id="a number that the host looks at"),
        pytest.param(lambda y: y.new_zeros(2, 64), id="a tensor that is filled"),
    ],
)
def test_what_no_replay_would_do_is_not_recorded(more: Callable[[Tensor], Tensor]) -> None:
    step = Step()
    assert record(lambda: more(step())) is None
    assert not step.kept.any()


@pytest.mark.parametrize(
    "copying", [lambda y: y.t().contiguous(), lambda y: y.to(torch.bfloat16)], ids=["contiguous", "to"]
)
@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_a_copy_that_calls_itself_a_view_is_not_recorded(
    copying: Callable[[Tensor], Tensor], mode: Callable[[], Any]
) -> None:
    with mode():
        step = Step()
        assert record(lambda: copying(step())) is None


def test_kernels_are_clocked_by_name() -> None:
    recorded = record(Step())
    assert recorded is not None
    replay = recorded[0]
    replay.clock()
    assert replay.seconds() == {"add_rms_norm": 0, "gated": 0}
    replay()
    once = dict(replay.seconds())
    replay()
    assert all(0 < once[name] < seconds for name, seconds in replay.seconds().items())


def test_a_kernel_without_a_form_for_words_is_not_recorded() -> None:
    words = torch.ones(3, dtype=torch.int64)
    assert record(lambda: checksum.checksum(words, words)) is None


def test_an_error_of_the_step_is_its_own() -> None:
    def step() -> Tensor:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        record(step)
    Step()()  # kernels run again


def test_kernels_of_another_thread_run() -> None:
    other = Step()

    def step() -> Tensor:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        return torch.empty(0)

    assert record(step) is not None
    plain = Step()
    plain()
    assert torch.equal(other.kept, plain.kept)
