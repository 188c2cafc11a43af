"""No state outlives a batch, and two sessions on two models do not affect each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import naive
import regrow
from families import FAMILIES, LAYERS, NEURONS, VOCABULARY, WIDTH, build
from regrow.method.base import Method
from regrow.session import Session


def run(model: Any, batch: Sequence[Sequence[int]], steps: int = 20) -> Tensor:
    ids, mask = naive.left_pad(batch, 0)
    given = {"max_new_tokens": steps, "do_sample": False, "eos_token_id": VOCABULARY, "pad_token_id": 0}
    return model.generate(ids, attention_mask=mask, **given)


def done(session: Session) -> dict[str, Any]:
    """Return the report of a batch without its times, and the masks of the batch."""
    report = session.report().to_dict()
    del (
        report["prefill_seconds"],
        report["decode_seconds"],
        report["sparse_seconds"],
        report["refresh_seconds"],
    )
    return report | {"masks": [(when, index.tolist()) for when, index in session.masks]}


FIRST, SECOND = [[5, 9, 31], [7], [3, 3, 50, 8, 11]], [[90, 12], [4, 44, 61, 7]]
METHODS: list[Method] = [
    regrow.Dense(),
    regrow.Griffin(sparsity=0.5),
    regrow.BatchwiseAdaptive(sparsity=0.5, init_steps=3, period=5),
    regrow.BatchwiseAdaptive(
        sparsity=0.7, init_steps=0, explore_steps=1, period=4, memory="ema", aggregate="mean"
    ),
]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: f"{method.name}")
def test_a_batch_does_not_depend_on_the_batches_before_it(method: Method) -> None:
    """Bit for bit in float32, where another order of the retained rows would show in the logits."""
    model = build("qwen2")
    with regrow.prune(model, method, record_masks=True) as session:
        fresh = run(model, FIRST), done(session)
        again = run(model, FIRST), done(session)
        run(model, SECOND)
        assert done(session)["tokens"] == [20, 20]
        later = run(model, FIRST), done(session)
    with regrow.prune(model, method, record_masks=True) as session:
        anew = run(model, FIRST), done(session)
    for tokens, left in (again, later, anew):
        assert torch.equal(tokens, fresh[0])
        assert left == fresh[1]


def test_logits_of_a_second_batch_are_bit_identical() -> None:
    model = build("llama")
    ids, mask = naive.left_pad(FIRST, 0)
    logits = []
    with regrow.prune(model, METHODS[2]):
        for _ in range(2):
            given = {"max_new_tokens": 20, "eos_token_id": VOCABULARY, "pad_token_id": 0, "do_sample": False}
            out = model.generate(
                ids, attention_mask=mask, return_dict_in_generate=True, output_logits=True, **given
            )
            logits.append(torch.stack(out.logits))
            run(model, SECOND)
    assert torch.equal(*logits)


def test_two_sessions_on_two_models_do_not_disturb_each_other() -> None:
    """A batch of one session runs in the middle of a batch of the other."""
    one, two = build("qwen2"), build("phi3")
    alone = []
    for model, method in ((one, METHODS[2]), (two, METHODS[3])):
        with regrow.prune(model, method, record_masks=True) as session:
            alone.append((run(model, FIRST), done(session)))
    with (
        regrow.prune(one, METHODS[2], record_masks=True) as first,
        regrow.prune(two, METHODS[3], record_masks=True) as second,
    ):
        inner: list[tuple[Tensor, dict[str, Any]]] = []

        def watch(progress: regrow.Progress) -> None:
            if progress.step in (1, 8):
                inner.append((run(two, FIRST), done(second)))

        ids, mask = naive.left_pad(FIRST, 0)
        given = {"max_new_tokens": 20, "do_sample": False, "eos_token_id": VOCABULARY, "pad_token_id": 0}
        outer = one.generate(ids, attention_mask=mask, watch=watch, **given), done(first)
    assert len(inner) == 2
    for (tokens, left), (want, wanted) in zip([outer, *inner], [alone[0], alone[1], alone[1]], strict=True):
        assert torch.equal(tokens, want)
        assert left == wanted


@pytest.mark.parametrize("family", FAMILIES)
def test_state_bytes_are_those_of_the_buffers(family: str) -> None:
    """Counts the float32 buffers by hand.

    They are two accumulators and the memory [L, S, F], z [L, S, F] of an observed step, indices and flags,
    and the compact copies with a neuron-major down.
    """
    model = build(family)
    with regrow.prune(model, METHODS[2]) as session:
        run(model, FIRST, steps=5)
        state = 4 * LAYERS * 3 * NEURONS * 4 + LAYERS * (NEURONS // 2) * 8 + LAYERS * NEURONS
        copies = LAYERS * WIDTH * (3 * NEURONS // 2 + NEURONS) * 4
        assert session.report().state_bytes == state + copies
