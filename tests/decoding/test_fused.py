"""A fused decoder gives the model's logits.

Models that are not known, or that must not be bypassed, run their own forward.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from decimal import Decimal
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

import regrow
from batches import arguments, prompts
from families import FAMILIES, LAYERS, build
from passes import planned, run
from recorder import Recorder
from regrow.adapter.llama_like import read, readable
from regrow.adapter.survey import survey
from regrow.core import FFN_SITES, Mode, Surface
from regrow.decoding.choose_network import Networks
from regrow.decoding.fused import FusedNetwork
from regrow.decoding.graphs import Graphs
from regrow.pruning.neurons import NeuronPruner
from regrow.selection.index_set import IndexSet
from regrow.selection.schedule import Schedule

pytestmark = pytest.mark.usefixtures("interpreted")
KNOWN = ["llama", "mistral", "qwen2", "qwen3", "biases"]
LENGTHS = [9, 5, 2]  # tokens of three rows
DTYPES = [torch.float64, torch.float32, torch.bfloat16]


def batch(lengths: list[int], width: int) -> tuple[Tensor, Tensor]:
    """Returns ids and positions [B, width], padded on the left."""
    ids = torch.randint(3, 90, (len(lengths), width), generator=torch.Generator().manual_seed(1))
    position = torch.arange(width) - (width - torch.tensor(lengths)[:, None])
    return ids, position.clamp(min=-1)


def stock(model: PreTrainedModel, ids: Tensor, position: Tensor) -> Tensor:
    with torch.no_grad():
        return model(
            ids, attention_mask=(position >= 0).long(), position_ids=position.clamp(min=0), use_cache=False
        ).logits


def relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm())


def ready(
    model: PreTrainedModel, rows: int = 3, columns: int = 20, *, kernels: bool = False, record: Any = None
) -> FusedNetwork:
    network = FusedNetwork(read(model), kernels=kernels, recorder=record and (lambda: record))
    network.start(rows, columns)
    # Values left by an earlier batch: `start` clears what this batch needs, and the rest must not be read.
    network._keys_values.fill_(torch.nan)
    network.start(rows, columns)
    return network


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("family", KNOWN)
def test_logits_of_a_prompt_and_of_steps_are_the_models(family: str, dtype: torch.dtype) -> None:
    """Rows are ragged. A prompt is fed whole, or in two chunks and then one token at a time."""
    model = build(family, dtype)
    ids, position = batch(LENGTHS, 9)
    theirs = stock(model, ids, position)
    # Sums in another order differ by some roundings per layer. In bfloat16, both round at the same points.
    limit = {torch.float64: 1e-14, torch.float32: 2e-6, torch.bfloat16: 0.02}[dtype]
    with torch.no_grad():
        assert relative(run(ready(model), ids, position, 9), theirs[:, -1]) < limit
        network = ready(model)
        run(network, ids[:, :3], position[:, :3], 3)
        run(network, ids[:, 3:6], position[:, 3:6], 6)
        for column in range(6, 9):
            ours = run(network, ids[:, column, None], position[:, column, None], column + 1)
            live = position[:, column] >= 0
            assert relative(ours[live], theirs[live, column]) < limit


@pytest.mark.parametrize("kernels", [False, True], ids=["plain", "kernels"])
@pytest.mark.parametrize("family", KNOWN)
def test_rows_of_their_own_lengths_take_several_tokens_and_take_them_back(family: str, kernels: bool) -> None:
    """Each row takes four tokens in one step, at its own position. The last two are then replaced."""
    model = build(family)
    ids, position = batch(LENGTHS, 9)
    drafted = torch.randint(3, 90, (3, 4), generator=torch.Generator().manual_seed(2))
    own = torch.tensor(LENGTHS)[:, None]
    with torch.no_grad():
        network = ready(model, columns=256, kernels=kernels)
        run(network, ids, position, 9)
        first = run(network, drafted, own + torch.arange(4), 13, decode=True, key="step")
        fed = run(network, drafted[:, :2].flip(1), own + 2 + torch.arange(2), 13, decode=True, key="step")
    for row, length in enumerate(LENGTHS):
        text = [*ids[row, 9 - length :].tolist()]
        alone = torch.tensor([text + drafted[row].tolist()])
        assert relative(first[row], stock(model, alone, torch.arange(length + 4)[None])[0, -1]) < 2e-6
        alone = torch.tensor([text + drafted[row, :2].tolist() + drafted[row, :2].flip(0).tolist()])
        assert relative(fed[row], stock(model, alone, torch.arange(length + 4)[None])[0, -1]) < 2e-6


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_which_families_are_run_by_their_parts(family: str) -> None:
    assert readable(build(family)) == (family in KNOWN)


def hooked(model: Any) -> None:
    model.model.layers[1].self_attn.register_forward_hook(lambda *_: None)


def replaced(model: Any) -> None:
    norm = model.model.layers[0].input_layernorm
    norm.forward = lambda x: 2 * type(norm).forward(norm, x)


def another_norm(model: Any) -> None:
    class Norm(type(model.model.norm)):  # type: ignore[misc]
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    model.model.norm.__class__ = Norm


def scaled(model: Any) -> None:
    model.model.layers[1].self_attn.scaling *= 2


def dynamic(model: Any) -> None:
    model.config.rope_parameters["rope_type"] = "dynamic"


@pytest.mark.parametrize("change", [hooked, replaced, another_norm, scaled, dynamic])
def test_what_hooks_into_a_model_or_computes_something_else_is_not_gone_around(
    change: Callable[[Any], None],
) -> None:
    model = build("llama")
    assert by_parts(model)
    change(model)
    assert not by_parts(model)
    if change is not dynamic:
        batch = prompts(3)
        theirs = model.generate(**arguments(batch))
        with regrow.prune(model, regrow.Dense()):
            assert torch.equal(model.generate(**arguments(batch)), theirs)


def by_parts(model: PreTrainedModel) -> bool:
    with torch.no_grad():
        return Networks(model)._by_parts() is not None


def test_hooks_on_linears_and_ffns_are_called() -> None:
    model, called = build("qwen2"), []
    for module in (model.model.layers[0].self_attn.k_proj, model.model.layers[1].mlp):
        module.register_forward_hook(lambda module, *_: called.append(type(module).__name__))
    network = ready(model)
    with torch.no_grad():
        run(network, *batch(LENGTHS, 9), 9)
    assert sorted(called) == ["Linear", "Qwen2MLP"]


def test_changed_weights_are_seen_by_the_next_generation() -> None:
    model, batch = build("qwen2"), prompts(3)
    with regrow.prune(model, regrow.Dense()):
        before = model.generate(**arguments(batch))
        with torch.no_grad():
            model.model.layers[0].self_attn.q_proj.weight.mul_(-1)
        after = model.generate(**arguments(batch))
    assert torch.equal(after, model.generate(**arguments(batch)))
    assert not torch.equal(after, before)


def test_positions_of_the_callers_own_are_kept() -> None:
    model, batch = build("qwen2"), prompts(3)
    settings = arguments(batch)
    settings["position_ids"] = (settings["attention_mask"].cumsum(1) - 1).clamp(min=0) * 2
    theirs = model.generate(**settings)
    with regrow.prune(model, regrow.Dense()):
        assert torch.equal(model.generate(**settings), theirs)


def test_a_cache_is_reused_where_it_is_large_enough_and_left_behind_otherwise() -> None:
    network = FusedNetwork(read(build("llama")), kernels=False)
    network.start(2, 100)
    held = network._keys_values
    assert held.shape[:3] == (LAYERS, 2, 257)
    network.start(2, 256)
    assert network._keys_values is held
    for rows, columns in ((2, 257), (3, 100)):
        network.start(rows, columns)
        assert network._keys_values is not held


# Recorded steps


def test_the_first_step_of_a_key_runs_the_second_is_recorded_the_others_are_replayed() -> None:
    recorder, ran = Recorder(), []
    graphs = Graphs(recorder)
    for key in ("a", "b", "a", "a", "b", "a"):
        graphs.run(key, lambda key=key: torch.tensor(float(ran.append(key) or len(ran))))  # type: ignore[misc]
    assert ran == ["a", "b", "a", "a", "b", "a"]
    assert (recorder.recorded, recorder.replayed) == (2, 4)


def test_recorded_steps_read_the_tokens_of_the_day() -> None:
    model, recorder = build("qwen3"), Recorder()
    ids, position = batch(LENGTHS, 9)
    network = ready(model, kernels=True, record=recorder)
    theirs = stock(model, ids, position)
    with torch.no_grad():
        run(network, ids[:, :5], position[:, :5], 5)
        for column in range(5, 9):
            ours = run(
                network, ids[:, column, None], position[:, column, None], column + 1, decode=True, key="dense"
            )
            live = position[:, column] >= 0
            assert relative(ours[live], theirs[live, column]) < 2e-6
    assert (recorder.recorded, recorder.replayed) == (1, 3)
    network.start(3, 1000)  # another cache; recorded steps go with the old one
    assert network._steppers == {}
    assert network._graphs is not None
    assert network._graphs._recorded == {}


def test_without_memory_for_a_larger_cache_the_next_batch_gets_one_of_its_own() -> None:
    ids, position = batch(LENGTHS, 9)
    network = ready(build("llama"))
    with torch.no_grad():
        want = run(network, ids, position, 9)
        with pytest.raises(RuntimeError, match="memory"):
            network.start(3, 10**13)
        network.start(3, 20)
        assert torch.equal(run(network, ids, position, 9), want)


@pytest.mark.parametrize(("rows", "chunk"), [(1, 4096), (16, 2048), (64, 512), (4096, 64)])
def test_chunks_of_a_prompt_are_shorter_where_there_are_many_rows(rows: int, chunk: int) -> None:
    network = FusedNetwork(read(build("llama")), kernels=False)
    network.start(rows, 1)
    assert network.chunk == chunk


def test_a_step_that_observes_is_recorded_for_one_state_and_one_with_thresholds_not_at_all() -> None:
    """The key of an observing step holds the address of its state, which changes with the batch size.

    A sparse step with thresholds varies in size, so it is never recorded.
    """
    model = build("qwen2")
    with regrow.prune(model, regrow.BatchwiseAdaptive(sparsity=0.5)) as session:
        pruner = session.pruner
        assert isinstance(pruner, NeuronPruner)

        def key(mode: Mode) -> Hashable:
            step = planned(torch.zeros(2, 1, dtype=torch.int64), decode=True, mode=mode)
            pruner.prepare(step)
            return pruner.key(step)

        session.start(2)
        keys = [key(mode) for mode in Mode]
        held = dict(pruner._seen)  # keeps the buffers alive, so that new ones get other addresses
        session.start(2)
        assert [key(mode) for mode in Mode] == keys
        session.start(3)
        changed = [mode for mode, earlier in zip(Mode, keys, strict=True) if key(mode) != earlier]
        assert (changed, len(set(keys))) == ([Mode.OBSERVE], len(Mode))
    del held
    by_threshold = NeuronPruner(
        IndexSet(Decimal("0.5"), Schedule(2, 1, 4), selection="threshold"),
        survey(model, Surface.NEURONS, FFN_SITES)[0],
        threshold=torch.zeros(2),
    )
    by_threshold.start(2, session._meter)
    steps = {
        mode: planned(torch.zeros(2, 1, dtype=torch.int64), decode=True, mode=mode)
        for mode in (Mode.SPARSE, Mode.OBSERVE)
    }
    by_threshold.prepare(steps[Mode.OBSERVE])
    assert by_threshold.key(steps[Mode.SPARSE]) is None
    assert by_threshold.key(steps[Mode.OBSERVE]) is not None


@pytest.mark.parametrize("width", [1, 18], ids=["without kernels", "more than the kernels take"])
def test_plain_steps_read_what_steps_through_the_kernels_wrote(width: int) -> None:
    model = build("qwen2")
    ids, position = batch([20, 16], 20)
    network = ready(model, rows=2, columns=40, kernels=True)
    more = torch.randint(3, 90, (2, 2 + width), generator=torch.Generator().manual_seed(2))
    own = torch.tensor([[20], [16]]) + torch.arange(2 + width)
    with torch.no_grad():
        run(network, ids, position, 20)
        for step in range(2):
            run(network, more[:, step, None], own[:, step, None], 21 + step, decode=True)
        last = run(network, more[:, 2:], own[:, 2:], 22 + width, decode=width > 1)
    theirs = stock(model, torch.cat([ids, more], dim=1), torch.cat([position, own], dim=1))
    assert relative(last, theirs[:, -1]) < 2e-6


def test_steps_without_a_key_run_through_the_kernels_and_are_not_recorded() -> None:
    model, recorder = build("llama"), Recorder()
    ids, position = batch(LENGTHS, 9)
    network = ready(model, kernels=True, record=recorder)
    with torch.no_grad():
        run(network, ids[:, :7], position[:, :7], 7)
        for column in (7, 8):
            ours = run(network, ids[:, column, None], position[:, column, None], column + 1, decode=True)
    kinds = [kind for _, *kind in network._steppers]
    assert (recorder.recorded, kinds) == (0, [[1, False]])
    assert relative(ours, stock(model, ids, position)[:, -1]) < 2e-6
