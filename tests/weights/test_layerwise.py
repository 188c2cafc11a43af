"""Pruning layer by layer: the inputs come from the pruned layers before, and the model stays the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import pytest
import torch
from torch import Tensor

import naive_weights as naive
from families import FAMILIES, LAYERS, build
from regrow.weights import WeightPruner
from regrow.weights.layerwise import prune_layers
from regrow.weights.pattern import Pattern
from regrow.weights.sparsegpt_pruner import SparseGPTPruner
from regrow.weights.wanda_pruner import WandaPruner

# Two sequences have one length, with others in between. The longest is longer than the sliding windows (16),
# and the shortest is a single token.
SEQUENCES = [torch.arange(3, 3 + length) * step % 96 for length, step in ((20, 1), (33, 5), (1, 1), (20, 7))]


def wanda(weight: Tensor) -> WeightPruner:
    return WandaPruner(weight, Pattern("2:4"))


RULES: dict[str, tuple[Callable[[Tensor], WeightPruner], naive.Prune]] = {
    "wanda": (wanda, naive.wanda),
    "sparsegpt": (SparseGPTPruner, naive.sparsegpt),
}


@final
class Onlooker(WeightPruner):
    """Prunes nothing and keeps the inputs that it receives."""

    def __init__(self, weight: Tensor, seen: dict[int, list[Tensor]]) -> None:
        self._weight, self._seen = weight, seen.setdefault(weight.data_ptr(), [])

    def add(self, x: Tensor) -> None:
        self._seen.append(x.clone())

    def prune(self, name: str) -> Tensor:
        return self._weight.clone()


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def test_without_pruning_every_linear_is_fed_what_the_model_feeds_it(family: str) -> None:
    model, seen = build(family, torch.float64), {}
    linears = {
        name: linear for layer in range(LAYERS) for name, linear in naive.linears(model, layer).items()
    }
    weights = prune_layers(model, SEQUENCES, lambda weight: Onlooker(weight, seen))
    want = naive.inputs_of(model, linears, SEQUENCES)
    for name, linear in linears.items():
        assert torch.equal(weights[f"{name}.weight"], linear.weight)
        assert len(seen[linear.weight.data_ptr()]) == len(SEQUENCES)
        assert all(map(torch.equal, seen[linear.weight.data_ptr()], want[name]))


def test_without_pruning_the_last_hidden_states_are_the_models(family: str) -> None:
    model, seen, outputs = build(family, torch.float64), {}, []
    with torch.no_grad():
        want = [model.model(ids[None], use_cache=False).last_hidden_state for ids in SEQUENCES]
    with model.model.layers[-1].register_forward_hook(lambda _, __, output: outputs.append(output)):
        prune_layers(model, SEQUENCES, lambda weight: Onlooker(weight, seen))
    # Earlier runs of the last layer recorded its keyword arguments. Its last runs cover every sequence.
    with torch.no_grad():
        got = [model.model.norm(output) for output in outputs[-len(SEQUENCES) :]]
    assert all(map(torch.equal, got, want))


@pytest.mark.parametrize("rule", RULES)
def test_the_linears_of_the_layers_and_only_they_are_two_of_four(family: str, rule: str) -> None:
    model = build(family)
    linears = {
        f"{name}.weight": linear
        for layer in range(LAYERS)
        for name, linear in naive.linears(model, layer).items()
    }
    weights = prune_layers(model, SEQUENCES, RULES[rule][0])
    assert list(weights) == list(linears)
    for name, weight in weights.items():
        assert ((weight != 0).reshape(-1, 4).sum(dim=1) == 2).all()
        assert (weight.shape, weight.dtype, weight.requires_grad) == (
            linears[name].weight.shape,
            torch.float32,
            False,
        )
        if rule == "wanda":
            assert torch.equal(weight, linears[name].weight.where(weight != 0, 0))


# Both rules go through the same code. The reference of SparseGPT is slow, so SparseGPT runs on one plain, one
# windowed and one fused family only.
@pytest.mark.parametrize(
    ("family", "rule"),
    [*((f, "wanda") for f in FAMILIES), *((f, "sparsegpt") for f in ("llama", "gemma3", "phi3"))],
)
def test_each_layer_is_pruned_by_what_the_pruned_ones_before_feed_it(family: str, rule: str) -> None:
    model, (start, prune) = build(family, torch.float64), RULES[rule]
    got, want = prune_layers(model, SEQUENCES, start), naive.layer_by_layer(model, SEQUENCES, prune)
    one_go = naive.in_one_go(model, SEQUENCES, prune)
    assert list(got) == list(want)
    for name, weight in got.items():
        # In float64, inputs and Hessians differ by rounding. The inverse multiplies the difference by its
        # condition number, at most 6400.
        torch.testing.assert_close(weight, want[name], rtol=1e-9, atol=1e-10)
    differ = [name for name in got if not torch.allclose(got[name], one_go[name])]
    assert {name.split(".")[2] for name in differ} == {"1"}  # only the second layer differs


def test_progress_is_told_after_each_layer() -> None:
    told: list[tuple[int, int]] = []
    prune_layers(build("llama"), SEQUENCES, wanda, lambda done, layers: told.append((done, layers)))
    assert told == [(1, LAYERS), (2, LAYERS)]


def test_a_length_is_learnt_once_and_a_layer_runs_twice_a_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls = build("llama"), [0] * LAYERS
    for layer, module in enumerate(model.model.layers):
        forward = module.forward

        def counted(
            *args: Tensor, layer: int = layer, forward: Callable[..., Tensor] = forward, **keywords: object
        ) -> Tensor:
            calls[layer] += 1
            return forward(*args, **keywords)

        monkeypatch.setattr(module, "forward", counted)
    prune_layers(model, SEQUENCES, wanda)
    lengths, sequences = 3, len(SEQUENCES)
    assert calls == [lengths + 2 * sequences, lengths + sequences]  # no layer follows the last one


@pytest.mark.parametrize("structure", ["biases", "squared"])
def test_knows_biases_and_inputs_that_are_often_zero(structure: str) -> None:
    model = build(structure, torch.float64)
    got, want = (
        prune_layers(model, SEQUENCES, SparseGPTPruner),
        naive.layer_by_layer(model, SEQUENCES, naive.sparsegpt),
    )
    for name, weight in got.items():
        torch.testing.assert_close(weight, want[name], rtol=1e-9, atol=1e-10)
