"""A forward pass is a value. It changes nothing until it is committed, and then only for the kept tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import PreTrainedModel

import regrow
from batches import arguments, prompts
from fakes import Parts, given_blocks
from families import build
from regrow.adapter.llama_like import read
from regrow.core import Mode, Pass, Role
from regrow.decoding.fused import FusedNetwork
from regrow.decoding.loop import Loop
from regrow.pruning.neurons import NeuronPruner
from regrow.selection.index_set import IndexSet
from regrow.selection.schedule import Schedule
from regrow.session import Session

SLOTS, LAYERS, F = 3, 2, 7
few = settings(max_examples=60)
SCHEDULES = [Schedule(0, 0, 1), Schedule(2, 1, 3), Schedule(0, 2, 4), Schedule(5, 0, 2)]
MEMORIES = ("max", "none", "ema")


def session_of(schedule: Schedule, memory: str = "max", slots: int = SLOTS) -> Session:
    session = Session(
        Parts(IndexSet(Decimal("0.5"), schedule, memory=memory)), given_blocks(LAYERS, F), record_masks=True
    )
    session.start(slots)
    session.join(range(slots))
    return session


def drawn(seed: int, tokens: int) -> Tensor:
    """Return z [L, T, F] of the tokens of one pass."""
    return torch.randn(LAYERS, tokens, F, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def run(session: Session, planned: Pass, z: Tensor) -> None:
    with session.running(planned):
        for layer in range(LAYERS):
            session.run(layer, z[layer][:, :1] if planned.mode is Mode.SPARSE else z[layer])


def prompt(session: Session, seed: int) -> None:
    slot = torch.arange(SLOTS).repeat_interleave(4)
    planned = session.plan(slot, torch.arange(4).expand(SLOTS, 4), prompt=True, decode=False)
    run(session, planned, drawn(seed, len(slot)))
    session.commit(planned, completed=range(SLOTS))


def plan(session: Session, width: int, role: Role = Role.SCHEDULED, **kind: bool) -> Pass:
    return session.plan(
        torch.arange(SLOTS).repeat_interleave(width),
        torch.zeros(SLOTS, width, dtype=torch.int64),
        role=role,
        **kind,
    )


def left(session: Session) -> dict[str, Any]:
    """Return everything that a session and its pruner remember."""
    pruner = session.pruner
    assert isinstance(pruner, NeuronPruner)
    assert pruner.state is not None
    kept = {name: tensor.tolist() for name, tensor in vars(pruner.state).items() if name != "pending"}
    masks = [(step, index.tolist()) for step, index in session.masks]
    report = session.report().to_dict()
    del report["state_bytes"]  # buffers for passes of other sizes
    return kept | {
        "masks": masks,
        "clock": session._clock.step,
        "counters": str(session.counters),
        "report": report,
    }


# A pass that is never committed: (role, tokens a row, whether it holds a prompt, whether it runs).
ABANDONED = st.tuples(st.sampled_from(Role), st.integers(1, 4), st.booleans(), st.booleans())


@few
@given(
    schedule=st.sampled_from(SCHEDULES),
    memory=st.sampled_from(MEMORIES),
    between=st.lists(st.lists(ABANDONED, max_size=3), min_size=9, max_size=9),
    seed=st.integers(0, 2**16),
)
def test_passes_that_nobody_commits_leave_no_trace(
    schedule: Schedule, memory: str, between: list[list[tuple[Role, int, bool, bool]]], seed: int
) -> None:
    """Scheduled passes, drafts, verifications and prompts in any order between committed steps."""
    plain, disturbed = session_of(schedule, memory), session_of(schedule, memory)
    for session in (plain, disturbed):
        prompt(session, seed)
    for step, abandoned in enumerate(between):
        for number, (role, width, is_prompt, runs) in enumerate(abandoned):
            planned = plan(disturbed, width, role, prompt=is_prompt)
            if runs:
                run(disturbed, planned, drawn(seed + 100 * step + number, SLOTS * width))
        for session in (plain, disturbed):
            planned = plan(session, 1)
            run(session, planned, drawn(seed + step, SLOTS))
            session.commit(planned)
        assert left(disturbed) == left(plain)


@few
@given(
    kept=st.lists(st.integers(0, 4), min_size=SLOTS, max_size=SLOTS),
    width=st.integers(1, 4),
    role=st.sampled_from([Role.VERIFY, Role.SCHEDULED]),
    memory=st.sampled_from(MEMORIES),
    seed=st.integers(0, 2**16),
)
def test_of_a_pass_that_is_kept_in_part_the_kept_tokens_count(
    kept: list[int], width: int, role: Role, memory: str, seed: int
) -> None:
    """The rejected tokens have no more effect than tokens that never count. Rows keep different numbers."""
    kept = [min(count, width) for count in kept]
    partly, only = session_of(Schedule(8, 2, 4), memory), session_of(Schedule(8, 2, 4), memory)
    z, number = drawn(seed, SLOTS * width), torch.arange(width).repeat(SLOTS)
    for session in (partly, only):
        prompt(session, seed)
    planned = plan(partly, width, role)
    run(partly, planned, z)
    partly.commit(planned, torch.tensor(kept))
    slot = torch.arange(SLOTS).repeat_interleave(width)
    slot = torch.where(number < torch.tensor(kept)[slot], slot, -1)
    planned = only.plan(slot, torch.zeros(SLOTS, width, dtype=torch.int64), role=role)
    run(only, planned, z)
    only.commit(planned, steps=max(kept))
    assert left(partly) == left(only)


@pytest.mark.parametrize("kept", [[3, 1, 0], [2, 2, 2]])
def test_a_verification_counts_the_score_of_what_stands_and_ends_a_phase(kept: list[int]) -> None:
    session = session_of(Schedule(50, 0, 60), memory="none")
    prompt(session, 1)
    z = drawn(2, SLOTS * 3)
    planned = plan(session, 3, Role.VERIFY)
    assert planned.mode is Mode.OBSERVE
    run(session, planned, z)
    assert session.commit(planned, torch.tensor(kept))
    state = session.pruner.state  # type: ignore[attr-defined]
    for slot, count in enumerate(kept):
        if not count:
            assert not state.known[slot]
            continue
        tokens = z[0, 3 * slot : 3 * slot + count]
        score = (tokens / tokens.norm(dim=1, keepdim=True)).square().mean(0).sqrt()
        torch.testing.assert_close(state.memory[0, slot], score)
    assert session.counters.decode_steps == 1
    assert session._clock.step == max(kept)


def test_a_draft_is_dense_until_there_is_a_mask_and_sparse_from_then_on() -> None:
    session = session_of(Schedule(2, 0, 9))
    prompt(session, 1)
    assert plan(session, 1, Role.DRAFT).mode is Mode.DENSE
    for seed in (2, 3):
        planned = plan(session, 1)
        run(session, planned, drawn(seed, SLOTS))
        session.commit(planned)
    assert plan(session, 2, Role.DRAFT).mode is Mode.SPARSE


@pytest.mark.parametrize("width", [1, 2, 3, 5])
def test_phases_that_a_wide_pass_goes_past_are_closed(width: int) -> None:
    """T_init = 2: the first selection comes when the clock reaches 2 or passes it, in one step or several."""
    session = session_of(Schedule(2, 0, 9))
    prompt(session, 1)
    while session._clock.step < 2:
        planned = plan(session, width)
        assert planned.mode is Mode.OBSERVE
        run(session, planned, drawn(session._clock.step, SLOTS * width))
        session.commit(planned)
    assert len(session.masks) == 1


def test_the_pass_that_ran_last_can_be_committed_and_once() -> None:
    session = session_of(Schedule(0, 0, 1))
    prompt(session, 1)
    first, second = plan(session, 1), plan(session, 1)
    with pytest.raises(ValueError, match="ran last"):
        session.commit(first)
    run(session, first, drawn(1, SLOTS))
    run(session, second, drawn(2, SLOTS))
    with pytest.raises(ValueError, match="ran last"):
        session.commit(first)
    session.commit(second)
    with pytest.raises(ValueError, match="ran last"):
        session.commit(second)


@pytest.mark.parametrize("name", ["every-token", "wina"])
def test_measured_weights_of_a_pass_that_nobody_commits_do_not_count(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both methods choose their masks in every pass."""
    model, batch, step = build("gemma2"), prompts(3), Loop._step
    method = (
        regrow.EveryToken(sparsity=0.5)
        if name == "every-token"
        else regrow.WINA(sparsity=0.5, selection="topk")
    )
    with regrow.prune(model, method):
        plain = regrow.generate(model, **arguments(batch)).report

    def disturbed(loop: Loop, length: int) -> Any:
        planned = loop._session.plan(torch.arange(3), torch.zeros(3, 1, dtype=torch.int64), role=Role.DRAFT)
        with loop._session.running(planned):
            model(input_ids=torch.full((3, 1), 5))
        return step(loop, length)

    monkeypatch.setattr(Loop, "_step", disturbed)
    with regrow.prune(model, method):
        again = regrow.generate(model, **arguments(batch)).report
    assert again.weights_kept == plain.weights_kept
    assert again.sites == plain.sites


# Through a network


@pytest.fixture
def _poisoned() -> Iterator[None]:
    """Uninitialised memory holds NaN, because torch fills it so with deterministic algorithms."""
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("_poisoned")
def test_every_position_has_logits_and_drafts_that_are_taken_back_change_no_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before each step, three tokens are drafted and four positions verified. None of this is committed."""
    model, batch = build("llama"), prompts(3)
    method = regrow.BatchwiseAdaptive(sparsity=0.5, init_steps=3, explore_steps=1, period=4)
    with regrow.prune(model, method) as session:
        plain = model.generate(**arguments(batch)), session.report().to_dict()
    asked: list[Tensor] = []

    def disturb(loop: Loop) -> None:
        if loop._position.max() >= 25:  # keeps room for drafts in the cache
            return
        length, rows = int(loop._batch.lengths.max()) + loop._batch.prompt_length, len(loop._batch)
        drafted = torch.randint(3, 90, (rows, 4), generator=torch.Generator().manual_seed(length))
        position = loop._position + 1 + torch.arange(4)
        slot = torch.arange(rows)
        for number in range(3):
            draft = loop._session.plan(slot, position[:, number, None], role=Role.DRAFT)
            with loop._session.running(draft):
                loop._network.forward(draft, drafted[:, number, None], length=length + 4)
        verify = loop._session.plan(slot.repeat_interleave(4), position, role=Role.VERIFY)
        with loop._session.running(verify):
            asked.append(loop._network.forward(verify, drafted, length=length + 4, every=True))

    step = Loop._step

    def disturbed(loop: Loop, length: int) -> Any:
        disturb(loop)
        return step(loop, length)

    monkeypatch.setattr(Loop, "_step", disturbed)
    with regrow.prune(model, method) as session:
        again = model.generate(**arguments(batch, max_new_tokens=20)), session.report().to_dict()
    assert asked
    assert all(logits.shape == (3, 4, model.config.vocab_size) for logits in asked)
    assert torch.equal(again[0], plain[0])
    for report in (plain[1], again[1]):
        del (
            report["prefill_seconds"],
            report["decode_seconds"],
            report["sparse_seconds"],
            report["refresh_seconds"],
            report["state_bytes"],
        )
    assert again[1] == plain[1]


@pytest.mark.parametrize("kernels", [False, True], ids=["plain", "kernels"])
def test_logits_of_every_position_are_the_models(kernels: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("regrow.kernels._on_gpu", lambda _: kernels)
    model: PreTrainedModel = build("qwen3")
    ids = torch.randint(3, 90, (2, 12), generator=torch.Generator().manual_seed(1))
    position = torch.arange(12).expand(2, 12)
    network = FusedNetwork(read(model), kernels=kernels)
    network.start(2, 12)
    with torch.no_grad():
        theirs = model(ids, use_cache=False).logits
        prompt_pass = Pass(
            Mode.DENSE, torch.zeros(16, dtype=torch.int64), position[:, :8], prompt=True, decode=False
        )
        ours = [network.forward(prompt_pass, ids[:, :8], every=True)]
        wide = Pass(Mode.DENSE, torch.zeros(8, dtype=torch.int64), position[:, 8:], prompt=False, decode=True)
        ours.append(network.forward(wide, ids, every=True))
        last = network.forward(wide, ids)
    assert float((torch.cat(ours, dim=1) - theirs).norm() / theirs.norm()) < 2e-6
    assert torch.allclose(last, ours[1][:, -1], rtol=1e-5, atol=1e-5)


def test_rows_of_the_batch_are_given_by_their_slots() -> None:
    """The slots of a pass may come in any order, and tokens with slot -1 are in no sum."""

    def memory(order: Sequence[int]) -> Tensor:
        session = session_of(Schedule(1, 0, 9))
        prompt(session, 1)
        z = drawn(5, SLOTS)
        planned = session.plan(torch.tensor(order), torch.zeros(SLOTS, 1, dtype=torch.int64))
        run(session, planned, z[:, [slot if slot >= 0 else 2 for slot in order]])
        session.commit(planned)
        state = session.pruner.state  # type: ignore[attr-defined]
        return state.memory.clone()

    assert torch.equal(memory([2, 0, 1]), memory([0, 1, 2]))
    assert torch.equal(memory([0, 1, -1])[:, :2], memory([0, 1, 2])[:, :2])
    assert not torch.equal(memory([0, 1, -1])[:, 2], memory([0, 1, 2])[:, 2])
