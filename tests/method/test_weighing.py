"""Scores weighed by the norms of down's columns.

`tests/naive_rules.py` weighs the aggregate of the batch, where Regrow weighs the scores of every phase.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

import regrow
from batches import arguments, prompts
from calibrations import calibration_for
from fakes import GivenFFN, Parts, activation, blocks_of, forward
from families import LAYERS, NEURONS, build
from naive_rules import Settings, kept_count, retain, weigh
from regrow.core import Blocks, FFNWeights
from regrow.errors import UsageError
from regrow.selection.index_set import AGGREGATES, MEMORIES, IndexSet, IndexState
from regrow.selection.schedule import Schedule
from regrow.session import Session

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
POWERS = [0.0, 0.125, 0.5, 1.0, 2.0, 16.0]  # exact in every dtype
WEIGHED = regrow.BatchwiseAdaptive(sparsity=0.6, init_steps=3, explore_steps=1, period=4, weigh="down")
PLAIN = replace(WEIGHED, weigh="none")


# On given activations, whose scores are exact


@dataclass(frozen=True)
class Phases:
    """The z of two phases, a prompt and three dense decode steps, for a batch of B rows."""

    rows: int
    layers: int
    neurons: int
    dtype: torch.dtype
    seed: int

    def run(self, rule: IndexSet, norms: Sequence[Sequence[float]]) -> tuple[IndexState, list[list[int]]]:
        """Return the state and the last mask for columns of down with these norms [L][F]."""
        rng = random.Random(self.seed)
        session = Session(Parts(rule), blocks_with(norms, self.dtype), record_masks=True)
        session.start(self.rows)
        session.join(range(self.rows))
        for step in range(4):
            z = [activation(rng, self.layers, self.neurons) for _ in range(self.rows)]
            fed = torch.tensor(z, dtype=self.dtype)
            forward(
                session,
                torch.arange(self.rows),
                lambda _, fed=fed: [session.run(layer, fed[:, layer]) for layer in range(self.layers)],
                prompt=step == 0,
                decode=step > 0,
                completed=range(self.rows) if step == 0 else (),
            )
        return session.pruner.state, session.masks[-1][1].tolist()


def blocks_with(norms: Sequence[Sequence[float]], dtype: torch.dtype) -> Blocks:
    """Return blocks of FFNs that give their input back, of width one; down's columns have these norms."""
    ffns = []
    for number, row in enumerate(norms):
        down = torch.tensor(row, dtype=dtype)[None]
        signs = torch.tensor([(-1) ** (number + j) for j in range(len(row))], dtype=dtype)
        ones = torch.ones(len(row), 1, dtype=dtype)
        ffns.append(GivenFFN(FFNWeights(ones, ones, down * signs, functional.silu)))
    return blocks_of(ffns)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Phases, IndexSet, list[list[float]]]:
    """Draw activations, a rule without weighing, and norms of down's columns."""
    layers, neurons = draw(st.sampled_from([(1, 5), (2, 8), (1, 17)]))
    rule = IndexSet(
        Decimal(draw(st.sampled_from(["0.2", "0.5", "0.8"]))),
        Schedule(3, 0, 2),
        aggregate=draw(st.sampled_from(AGGREGATES)),
        memory=draw(st.sampled_from(MEMORIES)),
        decay=0.5,
    )
    phases = Phases(
        draw(st.sampled_from([1, 4])),
        layers,
        neurons,
        draw(st.sampled_from(DTYPES)),
        draw(st.integers(0, 2**16)),
    )
    row = st.lists(st.sampled_from(POWERS), min_size=neurons, max_size=neurons)
    return phases, rule, draw(st.lists(row, min_size=layers, max_size=layers))


def weighing(rule: IndexSet) -> IndexSet:
    return replace(rule, weigh="down")


@given(cases())
def test_a_weighed_memory_is_the_memory_times_the_norms(case: tuple[Phases, IndexSet, list]) -> None:
    """For every memory, and the mask is that of the naive reference, which weighs the aggregate.

    Products with powers of two are exact.
    """
    phases, rule, norms = case
    plain, _ = phases.run(rule, norms)
    state, mask = phases.run(weighing(rule), norms)
    factors = torch.tensor(norms, dtype=plain.memory.dtype)[:, None]
    assert torch.equal(state.memory, plain.memory * factors)
    combined = plain.memory.amax(1) if rule.aggregate == "max" else plain.memory.sum(1) / phases.rows
    settings = Settings(str(rule.sparsity), 3, 0, 2, 1, 0, weigh="down")
    keep = kept_count(settings.sparsity, phases.neurons)
    for layer, own in enumerate(mask):
        down = torch.tensor(norms[layer], dtype=phases.dtype)[None]
        assert own == retain(weigh(settings, combined[layer], down), keep)[0]


@given(cases(), st.sampled_from(POWERS[1:]))
def test_equal_norms_select_as_no_weighing(case: tuple[Phases, IndexSet, list], norm: float) -> None:
    phases, rule, _ = case
    norms = [[norm] * phases.neurons] * phases.layers
    assert phases.run(weighing(rule), norms)[1] == phases.run(rule, norms)[1]


def test_different_norms_select_another_set() -> None:
    phases, rule = Phases(7, 1, 8, torch.float64, 0), IndexSet(Decimal("0.5"), Schedule(3, 0, 2))
    norms = [[1.0, 0, 1, 0, 1, 0, 1, 0]]
    assert phases.run(weighing(rule), norms)[1] == [[0, 2, 4, 6]]
    assert phases.run(rule, norms)[1] != [[0, 2, 4, 6]]


# On models: another scale of the same function


def rescaled(model: PreTrainedModel, factors: Tensor) -> None:
    """Multiply column j of every down by factor j, and divide row j of up by it.

    The FFN computes the same, to the last bit if the factors [F] are powers of two.
    """
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.down_proj.weight.mul_(factors)
            layer.mlp.up_proj.weight.div_(factors[:, None])


def masks_of(
    method: regrow.BatchwiseAdaptive, factors: Tensor, batch: Sequence[Sequence[int]]
) -> tuple[list[tuple[int, list[list[int]]]], list[list[int]]]:
    """Return the masks and the tokens of a run of a model that `rescaled` has changed, in float64."""
    model = build("llama", torch.float64)
    rescaled(model, factors)
    with regrow.prune(model, method, record_masks=True) as session:
        tokens = model.generate(**arguments(batch)).tolist()
        return [(step, index.tolist()) for step, index in session.masks], tokens


def drawn_powers() -> Tensor:
    return 2.0 ** torch.randint(-3, 4, (NEURONS,), generator=torch.Generator().manual_seed(0))


def test_over_one_token_the_scale_of_a_neuron_does_not_matter() -> None:
    """The score of one token is the length of the neuron's part of the output, |z_j| ||W_2[:, j]||.

    It is divided by ||z||, which is the same for all neurons. Scores without weighing see the scale.
    """
    once = replace(WEIGHED, init_steps=0, explore_steps=0)
    factors, same = drawn_powers(), torch.ones(NEURONS)
    assert masks_of(once, factors, [[7]]) == masks_of(once, same, [[7]])
    plain = replace(once, weigh="none")
    assert masks_of(plain, factors, [[7]]) != masks_of(plain, same, [[7]])


@pytest.mark.parametrize("method", [WEIGHED, PLAIN], ids=lambda method: method.weigh)
def test_the_common_scale_of_a_layer_does_not_matter(method: regrow.BatchwiseAdaptive) -> None:
    batch = prompts(4)
    assert masks_of(method, torch.full((NEURONS,), 8.0), batch) == masks_of(
        method, torch.ones(NEURONS), batch
    )


def test_the_length_of_a_neurons_part_of_the_output_ranks_it() -> None:
    """For a prompt of one token, against the outputs of single neurons in an unpruned model."""
    model, seen = build("llama", torch.float64), []
    for layer in model.model.layers:
        layer.mlp.down_proj.register_forward_pre_hook(lambda _, args: seen.append(args[0][0, 0]))
    with torch.no_grad():
        model(torch.tensor([[7]]), use_cache=False)
    parts = [
        (layer.mlp.down_proj.weight.detach() * z).norm(dim=0)
        for layer, z in zip(model.model.layers, seen, strict=True)
    ]
    once = replace(WEIGHED, init_steps=0, explore_steps=0)
    ((_, mask),), _ = masks_of(once, torch.ones(NEURONS), [[7]])
    assert mask == [retain(part, kept_count("0.6", NEURONS))[0] for part in parts]


# The norms


def norms_of(model: PreTrainedModel) -> Tensor:
    return torch.stack([layer.mlp.down_proj.weight.detach().norm(dim=0) for layer in model.model.layers])


def test_the_norms_are_those_of_the_layers_that_are_pruned_and_of_the_current_weights() -> None:
    model = build("qwen2", torch.float64)
    with regrow.prune(model, WEIGHED, skip_layers=[0]) as session:
        model.generate(**arguments(prompts(3)))
        torch.testing.assert_close(session.pruner.state.norms, norms_of(model)[1:])
        model.model.layers[1].mlp.down_proj.weight.data[:, ::2] *= 3
        model.generate(**arguments(prompts(3)))
        torch.testing.assert_close(session.pruner.state.norms, norms_of(model)[1:])


def test_the_norms_are_counted_as_memory() -> None:
    model, used = build("qwen2"), []
    for method in (PLAIN, WEIGHED):
        with regrow.prune(model, method) as session:
            model.generate(**arguments(prompts(3)))
            used.append(session.report().state_bytes)
    assert used[1] - used[0] == LAYERS * NEURONS * 4


@pytest.mark.parametrize("selection", ["topk", "threshold"])
def test_neurons_without_a_column_come_last(selection: str) -> None:
    """They are kept only where nothing else is left, and never by threshold."""
    model, method = build("qwen2"), replace(WEIGHED, selection=selection)
    dead = torch.arange(NEURONS) % 2 == 0
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.down_proj.weight[:, dead] = 0
    with regrow.prune(
        model, method, calibration=calibration_for(model, method), record_masks=True
    ) as session:
        model.generate(**arguments(prompts(3)))
        kept = [set(row.tolist()) - {-1} for _, mask in session.masks for row in mask]
    assert all(kept)
    assert not any(j % 2 == 0 for row in kept for j in row)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_columns_without_a_finite_norm_are_refused_by_name(value: float) -> None:
    """A weight may become infinite between two batches, and finite again."""
    model, sentence = build("qwen2"), r'weigh="down" needs finite .* model\.layers\.1\.mlp has a'
    weight = model.model.layers[1].mlp.down_proj.weight.data
    with regrow.prune(model, WEIGHED):
        want = model.generate(**arguments(prompts(3)))
        kept, weight[3, 5] = weight[3, 5].clone(), value
        with pytest.raises(UsageError, match=sentence):
            model.generate(**arguments(prompts(3)))
        weight[3, 5] = kept
        assert torch.equal(model.generate(**arguments(prompts(3))), want)
    weight[3, 5] = value
    with pytest.raises(UsageError, match=sentence), regrow.prune(model, WEIGHED):
        pass
    assert not any("forward" in vars(module) for module in model.modules())


# Thresholds


def test_thresholds_of_weighed_scores_are_for_weighed_scores_only() -> None:
    model = build("qwen2")
    weighed, plain = (replace(method, selection="threshold") for method in (WEIGHED, PLAIN))
    calibrations = {method: calibration_for(model, method) for method in (weighed, plain)}
    assert calibrations[plain].origin.params == {"sparsity": 0.6}  # as in files made before `weigh` was added
    assert calibrations[weighed].origin.params == {"sparsity": 0.6, "weigh": "down"}
    with (
        pytest.raises(UsageError, match=r"made for bap \(sparsity=0.6\), not for bap \(.*weigh=down\)"),
        regrow.prune(model, weighed, calibration=calibrations[plain]),
    ):
        pass
    with (
        pytest.raises(UsageError, match=r"made for bap \(.*weigh=down\), not for bap \(sparsity=0.6\)"),
        regrow.prune(model, plain, calibration=calibrations[weighed]),
    ):
        pass
    with (
        pytest.raises(UsageError, match=r"--method bap -P sparsity=0.6 -P weigh=down .*selection=threshold"),
        regrow.prune(model, weighed),
    ):
        pass
