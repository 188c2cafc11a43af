"""Thresholds, compared with the scores that plain hooks see on the same text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

import naive
from calibrations import text
from families import FAMILIES, LAYERS, build
from naive_methods import Inputs, Tokens
from naive_rules import score
from regrow.calibration.make_calibration import measure
from regrow.errors import RegrowError, UsageError
from regrow.method.base import Method
from regrow.method.presets import make

TEXT = text(count=10)
Scores = Callable[[Any, Tensor], Tensor]  # a place and its inputs [T, n] -> [R, n]


def of_tokens(rule: Inputs | Tokens) -> Scores:
    """Score every token for itself."""
    return lambda place, x: torch.stack(
        [rule.scores(place, [row] if isinstance(rule, Inputs) else row) for row in x]
    )


def of_sequence(place: Any, x: Tensor) -> Tensor:
    """Return s [1, F] of a sequence."""
    z = naive.hidden(place.module, x)
    return score(list(z), z.shape[1], torch.float32)[None]


def of_weighed_sequence(place: Any, x: Tensor) -> Tensor:
    """Return s [1, F] of a sequence, times the norms of down's columns."""
    return of_sequence(place, x) * place.module.down_proj.weight.norm(dim=0)


KINDS: dict[str, tuple[dict[str, Any], Inputs | Tokens, Scores]] = {
    "teal": ({}, Inputs({}), of_tokens(Inputs({}))),
    "wina": ({}, Inputs({}), of_tokens(Inputs({}, norms=True))),
    "cats": ({}, Tokens({}), of_tokens(Tokens({}))),
    "bap": ({"selection": "threshold"}, Tokens({}), of_sequence),
    "bap-weighed": ({"selection": "threshold"}, Tokens({}), of_weighed_sequence),
}
over_kinds = pytest.mark.parametrize("kind", KINDS)


def method_of(kind: str, sparsity: str = "0.5") -> Method:
    return make(kind, sparsity=sparsity, **KINDS[kind][0])


@torch.no_grad()
def seen(model: PreTrainedModel, kind: str, sequences: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return every score of every place, by its name, in plain runs of the model."""
    _, rule, scores = KINDS[kind]
    found: dict[str, list[Tensor]] = {place.name: [] for place in rule.places(model)}

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor]], None]:
        return lambda _, args: found[name].append(args[0][0].clone())

    handles = [place.module.register_forward_pre_hook(hook(place.name)) for place in rule.places(model)]
    for ids in sequences:
        model(ids[None], use_cache=False)
    for handle in handles:
        handle.remove()
    return {
        place.name: torch.cat([scores(place, x) for x in found[place.name]]).flatten()
        for place in rule.places(model)
    }


def share_below(scores: Tensor, threshold: Tensor) -> float:
    return float((scores <= threshold).double().mean())


@over_kinds
@pytest.mark.parametrize("family", ["qwen2", "phi3", "gemma2", "glm4"])
def test_the_share_below_is_the_target(kind: str, family: str) -> None:
    """The share is within half a percentage point of the target, and below it by one score at most.

    A bin is a thousandth of its value wide, and repeated tokens have repeated scores. One score may be
    missing because it is rounded differently.
    """
    model = build(family)
    found = seen(model, kind, TEXT)
    for sparsity in ("0.3", "0.5", "0.9"):
        thresholds = measure(model, method_of(kind, sparsity), TEXT)
        assert list(thresholds) == list(found)
        assert {(value.dtype, value.shape) for value in thresholds.values()} == {(torch.float64, ())}
        shares = [share_below(found[name], thresholds[name]) for name in found]
        assert shares == pytest.approx([float(sparsity)] * len(shares), abs=0.005)
        assert all(
            share >= float(sparsity) - 1 / len(found[name]) for name, share in zip(found, shares, strict=True)
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_linears_of_one_input_share_the_threshold_unless_weighed(family: str) -> None:
    model = build(family)
    teal, wina = (measure(model, method_of(kind), TEXT) for kind in ("teal", "wina"))
    for layer in range(LAYERS):
        for names in (
            ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
            ("mlp.gate_proj", "mlp.up_proj"),
        ):
            own = [path for name in names if (path := f"model.layers.{layer}.{name}") in teal]
            assert len({float(teal[path]) for path in own}) == min(1, len(own))
    if family != "phi3":  # fused: one linear an input
        assert len({float(value) for value in wina.values()}) > len({float(value) for value in teal.values()})
    # All other thresholds differ. Attention and FFN in parallel on one input have one value fewer.
    assert len({float(value) for value in teal.values()}) == (3 if family == "cohere2" else 4) * LAYERS


@over_kinds
def test_sequences_are_run_one_by_one_in_any_order(kind: str) -> None:
    """The sequences differ in length, and one is a single token.

    Half a percentage point is tolerated as above; for BAP, which has few scores, this is their granularity.
    """
    model, method, sequences = build("qwen2"), method_of(kind), [TEXT[0], TEXT[1][:1], *TEXT[2:]]
    thresholds, found = measure(model, method, sequences), seen(model, kind, sequences)
    assert measure(model, method, sequences[::-1]) == thresholds
    assert [share_below(found[name], thresholds[name]) for name in found] == pytest.approx(
        [0.5] * len(found), abs=0.005
    )


def test_the_rows_of_a_batch_share_the_mean_of_their_scores() -> None:
    model, rows = build("llama"), torch.stack([torch.roll(TEXT[0], shift) for shift in range(3)])
    inputs: dict[str, Tensor] = {}
    with torch.no_grad(), ExitStack() as stack:
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear):
                hook = module.register_forward_pre_hook(
                    lambda _, given, name=name: inputs.update({name: given[0]})
                )
                stack.callback(hook.remove)
        model(input_ids=rows)
    found = measure(model, method_of("teal"), [rows])
    shares = [share_below(inputs[name].abs().mean(dim=0), threshold) for name, threshold in found.items()]
    assert shares == pytest.approx([0.5] * len(found), abs=0.005)
    alone = measure(model, method_of("teal"), list(rows))
    assert all(float(found[name]) > float(alone[name]) for name in found)  # means lie closer together


def test_thresholds_of_a_float64_model_are_those_of_float32() -> None:
    """They may differ by one bin, a thousandth: rounding by a millionth may move a score to the next bin."""
    narrow, wide = (
        measure(build("llama", dtype), method_of("cats"), TEXT) for dtype in (torch.float32, torch.float64)
    )
    assert [float(narrow[name]) for name in wide] == pytest.approx(
        [float(value) for value in wide.values()], rel=2e-3
    )


def test_scores_that_are_mostly_zero_give_the_threshold_zero() -> None:
    """relu2 makes about half of the gate exactly zero.

    At a target of 0.3 only zeros are pruned; at 0.9 the share of pruned scores is the target again.
    """
    model = build("squared")
    found = seen(model, "cats", TEXT)
    assert all(0.35 < share_below(scores, torch.zeros(())) < 0.65 for scores in found.values())
    assert list(measure(model, method_of("cats", "0.3"), TEXT).values()) == [0.0] * LAYERS
    shares = [
        share_below(found[name], threshold)
        for name, threshold in measure(model, method_of("cats", "0.9"), TEXT).items()
    ]
    assert shares == pytest.approx([0.9] * LAYERS, abs=0.005)


@pytest.mark.parametrize("kind", ["cats", "bap"])
def test_scores_that_are_all_zero_give_the_threshold_zero(kind: str) -> None:
    """No score exceeds the threshold then."""
    model = build("llama")
    torch.nn.init.zeros_(model.model.layers[1].mlp.gate_proj.weight)
    first, second = measure(model, method_of(kind), TEXT).values()
    assert first > 0
    assert second == 0


def traces(model: nn.Module) -> list[list[tuple[str, int]]]:
    return [[(key, id(value)) for key, value in vars(module).items()] for module in model.modules()]


@contextmanager
def untouched(model: PreTrainedModel) -> Iterator[None]:
    """Assert that the block changes neither the model nor the global state of torch."""
    with torch.no_grad():
        want = model(TEXT[0][None], use_cache=False).logits
    before, state, dice = (
        traces(model),
        {key: value.clone() for key, value in model.state_dict().items()},
        torch.get_rng_state(),
    )
    yield
    assert traces(model) == before
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), dice)
    assert torch.is_grad_enabled()
    with torch.no_grad():
        assert torch.equal(model(TEXT[0][None], use_cache=False).logits, want)


class FailsError(Exception):
    """Raised by a test in the middle of something."""


@over_kinds
@pytest.mark.parametrize("error", [None, FailsError, KeyboardInterrupt])
def test_the_model_is_left_as_it_was(
    kind: str, error: type[BaseException] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This holds after an exception between two sequences or within one, too."""
    model = build("qwen2")
    if error is None:
        with untouched(model):
            measure(model, method_of(kind), TEXT)
        return

    def fail(*_: object) -> None:
        raise error

    with untouched(model), pytest.raises(error):
        measure(model, method_of(kind), TEXT, fail)
    with untouched(model), monkeypatch.context() as patch:
        patch.setattr(type(model.model.norm), "forward", fail)
        with pytest.raises(error):
            measure(model, method_of(kind), TEXT)


@over_kinds
def test_progress_is_told(kind: str) -> None:
    told: list[tuple[int, int]] = []
    measure(build("qwen2"), method_of(kind), TEXT[:3], lambda *state: told.append(state))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_what_cannot_be_measured_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("qwen2")
    with pytest.raises(UsageError, match="method 'teal' with these parameters needs no calibration"):
        measure(model, make("teal", sparsity=0), TEXT)
    monkeypatch.setattr(
        model.model.layers[1], "forward", lambda hidden_states, **_: hidden_states
    )  # left out, as by an early exit
    with pytest.raises(
        RegrowError,
        match=r"^model\.layers\.1\.[a-z._]+ was never run over the calibration text; use a model ",
    ):
        measure(model, make("cats"), TEXT)


@pytest.mark.parametrize("kind", ["teal", "cats"])
def test_a_model_that_overflows_is_refused(kind: str) -> None:
    model = build("qwen2")
    model.model.layers[1].mlp.gate_proj.weight.data[0, 0] = float("inf")
    model.model.layers[0].mlp.down_proj.weight.data[0, 0] = float("inf")
    with pytest.raises(RegrowError, match=r"overflows in model\.layers"):
        measure(model, method_of(kind), TEXT[:1])
