"""The session: its counters, the samples that count in a selection, and that no state outlives a batch."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import pytest
import torch
from torch import Tensor

from fakes import Parts, forward, given_blocks
from regrow.core import Mode
from regrow.pruning.neurons import NeuronPruner
from regrow.report import SiteCount
from regrow.selection.index_set import IndexSet
from regrow.selection.schedule import Schedule
from regrow.session import Session

F = 6


def session_of(schedule: Schedule, layers: int = 1, forget_finished: bool = False) -> Session:
    """Return a session that keeps three of six neurons, for FFNs with given activations."""
    rule = IndexSet(Decimal("0.5"), schedule, forget_finished=forget_finished)
    return Session(Parts(rule), given_blocks(layers, F), record_masks=True)


def loves(*neurons: int) -> Tensor:
    """Return z [F] that is one at these neurons."""
    return torch.tensor([float(j in neurons) for j in range(F)], dtype=torch.float64)


def prompt(
    session: Session, given: dict[int, Tensor], done: bool = True, finished: Sequence[int] = ()
) -> None:
    """Feed one prompt token to each of these slots, the last of the prompt if `done`.

    The slots in `finished` have then generated their EOS.
    """
    step(session, given, prompt=True, decode=False, completed=list(given) if done else [], finished=finished)


def decode(session: Session, given: dict[int, Tensor], finished: Sequence[int] = ()) -> Mode:
    """Feed one generated token to each of these slots."""
    return step(session, given, prompt=False, decode=True, finished=finished)


def step(
    session: Session,
    given: dict[int, Tensor],
    finished: Sequence[int],
    completed: Sequence[int] = (),
    **kind: bool,
) -> Mode:
    z = torch.stack(list(given.values()))
    ended = torch.tensor([slot in finished for slot in range(len(session._occupied))])
    run = lambda mode: session.run(0, z[:, :1] if mode is Mode.SPARSE else z)  # noqa: E731
    return forward(session, torch.tensor(list(given)), run, completed=completed, finished=ended, **kind)


def chosen(session: Session) -> list[tuple[int, list[int]]]:
    """Return the masks of the only layer: (decode step, retained neurons)."""
    return [(when, index[0].tolist()) for when, index in session.masks]


ONCE = Schedule(0, 0, 1)  # a mask from the prompt, then always sparse


# Who takes part


def test_a_row_that_joins_is_selected_for_at_once_and_the_clock_goes_on() -> None:
    session = session_of(Schedule(0, 1, 4))
    session.start(2)
    session.join([0])
    prompt(session, {0: loves(0, 1, 2)})
    assert decode(session, {0: loves(5)}) is Mode.SPARSE
    session.join([1])
    prompt(session, {1: loves(4)})
    assert chosen(session) == [(0, [0, 1, 2]), (1, [0, 1, 4])]
    modes = [decode(session, {0: loves(5), 1: loves(5)}) for _ in range(4)]
    assert modes == [Mode.SPARSE, Mode.SPARSE, Mode.OBSERVE, Mode.SPARSE]  # steps 2 to 5
    assert chosen(session)[2:] == [(4, [0, 4, 5])]


def test_a_row_in_its_prompt_does_not_count_until_it_is_done() -> None:
    session = session_of(Schedule(1, 1, 2))
    session.start(2)
    session.join([0, 1])
    prompt(session, {0: loves(0, 1, 2)})
    prompt(session, {1: loves(5)}, done=False)
    decode(session, {0: loves(0, 1, 2)})
    assert chosen(session) == [(1, [0, 1, 2])]
    prompt(session, {1: loves(4)})
    assert chosen(session)[1:] == [(1, [0, 4, 5])]  # sqrt(1/2) each, above row 0's sqrt(1/3)


def test_prompt_tokens_make_a_step_exact_for_every_row() -> None:
    session = session_of(ONCE)
    session.start(2)
    session.join([0])
    prompt(session, {0: loves(0)})
    session.join([1])
    z = torch.stack([loves(3), loves(4)])
    outputs = []
    run = lambda mode: outputs.append(session.run(0, z[:, :1] if mode is Mode.SPARSE else z))  # noqa: E731
    assert forward(session, torch.tensor([0, 1]), run, prompt=True, completed=[1]) is Mode.OBSERVE
    assert torch.equal(outputs[0], z)
    assert forward(session, torch.tensor([0, 1]), run) is Mode.SPARSE
    assert (session.counters.decode_steps, session.counters.sparse_steps) == (2, 1)


def test_a_row_that_left_stops_counting_at_the_next_selection() -> None:
    session = session_of(Schedule(0, 1, 2))
    session.start(2)
    session.join([0, 1])
    prompt(session, {0: loves(0, 1, 2), 1: loves(5)})
    session.leave([1])
    assert chosen(session) == [(0, [0, 1, 5])]
    decode(session, {0: loves(0)})
    decode(session, {0: loves(0)})
    assert chosen(session)[1:] == [(2, [0, 1, 2])]


def test_a_slot_taken_again_holds_nothing_of_the_row_before() -> None:
    session = session_of(ONCE)
    session.start(2)
    session.join([0, 1])
    prompt(session, {0: loves(0, 1), 1: loves(5)})
    session.leave([1])
    session.join([1])
    prompt(session, {1: loves(4)})
    assert chosen(session) == [(0, [0, 1, 5]), (0, [0, 1, 4])]


@pytest.mark.parametrize("forget", [True, False])
def test_finished_rows_count_unless_they_are_forgotten(forget: bool) -> None:
    session = session_of(Schedule(1, 1, 2), forget_finished=forget)
    session.start(2)
    session.join([0, 1])
    prompt(session, {0: loves(0, 1, 2), 1: loves(5)})
    decode(session, {0: loves(0, 1, 2), 1: loves(5)}, finished=[1])
    assert chosen(session) == [(1, [0, 1, 2] if forget else [0, 1, 5])]


def test_where_none_is_left_the_set_stays() -> None:
    session = session_of(Schedule(0, 1, 2), forget_finished=True)
    session.start(1)
    session.join([0])
    prompt(session, {0: loves(0, 1, 2)})
    decode(session, {0: loves(3, 4, 5)})
    decode(session, {0: loves(3, 4, 5)}, finished=[0])
    assert isinstance(session.pruner, NeuronPruner)
    assert session.pruner.state.index.tolist() == [[0, 1, 2]]
    assert session.report().turnover == [0.0]


def test_where_none_is_left_at_the_first_selection_the_next_row_is_selected_for() -> None:
    """The first token of a sample may be its EOS. Then nothing is selected until the next sample joins."""
    session = session_of(ONCE, forget_finished=True)
    session.start(1)
    session.join([0])
    prompt(session, {0: loves(0, 1, 2)}, finished=[0])
    session.leave([0])
    session.join([0])
    prompt(session, {0: loves(0, 4, 5)})
    assert chosen(session)[-1] == (0, [0, 4, 5])
    assert decode(session, {0: loves(0)}) is Mode.SPARSE


def test_a_selection_of_none_is_no_update() -> None:
    session = session_of(Schedule(0, 1, 2), forget_finished=True)
    session.start(1)
    session.join([0])
    prompt(session, {0: loves(0, 1, 2)}, finished=[0])
    assert session.counters.updates == 0
    assert chosen(session) == []


# What it counts


def test_counters_of_a_batch_by_hand() -> None:
    """T_init = 1, then one dense step in three. Of eight steps, 1, 4 and 7 are dense."""
    session = session_of(Schedule(1, 1, 3), layers=2)
    session.start(1)
    session.join([0])

    def run(mode: Mode) -> None:
        for layer in range(2):
            session.run(
                layer,
                loves(session.counters.decode_steps % F)[None, :1]
                if mode is Mode.SPARSE
                else loves(0, 1)[None],
            )

    forward(session, torch.tensor([0]), run, prompt=True, decode=False, completed=[0])
    before = session.report()
    assert before.weights_kept == before.weights_dense == before.ffn_bytes_read == 0
    for _ in range(8):
        forward(session, torch.tensor([0]), run)
    report = session.report()
    assert (report.decode_steps, report.sparse_steps, report.sparse_share) == (8, 5, 5 / 8)
    assert report.weights_dense == 8 * 2 * F * 3  # gate, up and down of width one
    assert report.weights_kept == 2 * (3 * F + 5 * 3) * 3
    assert report.actual_sparsity == pytest.approx(5 / 8 * 0.5)
    assert report.ffn_bytes_read == report.bytes_read == report.weights_kept * 8  # float64
    assert report.sites["down"] == SiteCount(kept=[33, 33], dense=[48, 48])
    assert report.sites["gate_up"] == SiteCount(kept=[66, 66], dense=[96, 96])
    assert (report.updates, report.turnover) == (3, [0.0, 0.0])
    # Three rows in each of two layers, read and written once: the set never changes.
    assert report.refresh_bytes == 2 * (2 * 3) * 3 * 8
    assert report.target_sparsity == 0.5


def test_a_batch_that_never_decodes_has_done_nothing() -> None:
    session = session_of(Schedule(1, 1, 3))
    session.start(1)
    session.join([0])
    prompt(session, {0: loves(0)})
    report = session.report()
    assert (
        report.decode_steps,
        report.actual_sparsity,
        report.sparse_share,
        report.updates,
        report.turnover,
    ) == (0, 0.0, 0.0, 0, [0.0])


def test_outside_a_step_the_ffns_are_the_models_own_and_nothing_is_counted() -> None:
    session = session_of(ONCE)
    session.start(1)
    session.join([0])
    prompt(session, {0: loves(0, 1, 2)})
    decode(session, {0: loves(0)})
    assert isinstance(session.pruner, NeuronPruner)
    assert session.pruner.state is not None
    total = session.pruner.state.total.clone()
    z = torch.stack([loves(3), loves(4)])
    assert torch.equal(session.run(0, z), z)
    planned = session.plan(torch.tensor([0]), torch.tensor([[1]]))
    assert planned.mode is Mode.SPARSE
    with session.running(planned):
        session.run(0, z[:1, :1])
    assert session.report().weights_kept == 1 * 3 * 3 * 1  # one sparse step: the second is not committed yet
    assert torch.equal(session.run(0, z), z)
    session.commit(planned)
    assert session.report().weights_kept == 2 * 3 * 3 * 1
    assert torch.equal(session.pruner.state.total, total)


def test_masks_are_recorded_only_if_asked_and_are_copies() -> None:
    rule = IndexSet(Decimal("0.5"), Schedule(0, 1, 2))
    silent = Session(Parts(rule), given_blocks(1, F))
    told = session_of(Schedule(0, 1, 2))
    for session in (silent, told):
        session.start(1)
        session.join([0])
        prompt(session, {0: loves(0, 1, 2)})
        for _ in range(2):
            decode(session, {0: loves(5)})
    assert silent.masks == []
    assert chosen(told) == [(0, [0, 1, 2]), (2, [0, 1, 5])]
