"""The contract that every method of the registry must fulfil, on a few families."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

import regrow
from batches import PAD, arguments, ends, new_tokens, prompts
from calibrations import calibration_for
from families import LAYERS, NEURONS, WIDTH, build
from regrow.core import FFNWeights, Surface
from regrow.errors import UsageError
from regrow.kernels import sparse_ffn
from regrow.kernels.pruned_ffn import reference
from regrow.method.base import Method, Needs
from regrow.method.presets import METHODS, make, parameters
from spread import spread

FAMILIES = ("qwen2", "phi3", "gemma2")
BATCH = prompts(4, seed=2)
# Small numbers of steps, so that a short run holds several cycles. A method takes the settings that it knows.
SETTINGS: dict[str, Any] = {"sparsity": "0.6", "init_steps": 3, "explore_steps": 1, "period": 4}
# Every method with its defaults, and its variants: (name of the method, differences from SETTINGS).
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in METHODS} | {
    "wanda": ("wanda", {"sparsity": "0.5"}),
    "sparsegpt": ("sparsegpt", {"sparsity": "0.5"}),
    "wanda unstructured": ("wanda", {"pattern": "unstructured"}),
    "bap mean": ("bap", {"aggregate": "mean"}),
    "bap none": ("bap", {"memory": "none"}),
    "bap threshold": ("bap", {"selection": "threshold"}),
    "bap weighed": ("bap", {"weigh": "down"}),
    "bap weighed mean": ("bap", {"weigh": "down", "aggregate": "mean", "memory": "ema"}),
    "bap weighed threshold": ("bap", {"weigh": "down", "selection": "threshold"}),
    "griffin sum": ("griffin", {"aggregate": "sum"}),
    "every-token mean": ("every-token", {"aggregate": "mean"}),
    "teal ffn": ("teal", {"ffn_only": True}),
    "teal abs_mean": ("teal", {"share": "abs_mean"}),
    "wina topk": ("wina", {"selection": "topk"}),
    "cats rows": ("cats", {"share": "none"}),
}

# Every method on every family, and every variant on one of them.
over_families = pytest.mark.parametrize(
    ("name", "family"),
    [(name, family) for name in METHODS for family in FAMILIES]
    + spread([name for name in VARIANTS if name not in METHODS], FAMILIES),
)
over_variants = pytest.mark.parametrize("name", VARIANTS)


def method_of(name: str, **changes: Any) -> Method:
    method, differing = VARIANTS[name]
    return make(
        method,
        **{
            key: value for key, value in (SETTINGS | differing | changes).items() if key in parameters(method)
        },
    )


def run(
    model: PreTrainedModel, method: Method, **settings: Any
) -> tuple[list[list[int]], list[tuple[int, list[list[int]]]], dict[str, Any]]:
    """Return new tokens, masks and the report without its times."""
    with regrow.prune(
        model, method, calibration=calibration_for(model, method), record_masks=True
    ) as session:
        given = arguments(BATCH, **settings)
        sequences = model.generate(**given)
        report = session.report().to_dict()
        del (
            report["prefill_seconds"],
            report["decode_seconds"],
            report["sparse_seconds"],
            report["refresh_seconds"],
        )
        masks = [(step, index.tolist()) for step, index in session.masks]
    return sequences[:, given["input_ids"].shape[1] :].tolist(), masks, report


@over_families
def test_zero_sparsity_is_the_stock_model(name: str, family: str) -> None:
    model = build(family)
    settings: dict[str, Any] = {"eos_token_id": ends(model, BATCH)}
    stock = new_tokens(BATCH, model.generate(**arguments(BATCH, **settings)))
    tokens, masks, report = run(model, method_of(name, sparsity=0), **settings)
    assert tokens == stock
    assert masks == []
    assert report["weights_kept"] == report["weights_dense"]


@over_families
def test_sparse_steps_compute_the_definition(name: str, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kernel call of a run equals the reference on the set that was loaded last, in float64."""
    calls: list[float] = []

    class Checked:
        def __init__(self, weights: FFNWeights, keep: int, scratch: Tensor, **how: Any) -> None:
            self.weights, self.inner = weights, sparse_ffn(weights, keep, scratch, **how)
            self.forget, self.state_bytes = self.inner.forget, self.inner.state_bytes
            self.index = torch.empty(0)

        def load(self, index: Tensor) -> int:
            self.index = index.clone()
            return self.inner.load(index)

        def __call__(self, x: Tensor) -> Tensor:
            y = self.inner(x)
            want = reference.sparse_ffn(self.weights, self.index, x)
            calls.append(float((y - want).norm() / want.norm()))
            return y

    monkeypatch.setattr("regrow.pruning.neurons.sparse_ffn", Checked)
    *_, report = run(build(family, torch.float64), method_of(name))
    retains = method_of(name).surface is Surface.NEURONS and report["updates"] > 0
    assert len(calls) == (report["sparse_steps"] * LAYERS if retains else 0)
    assert max(calls, default=0.0) < 1e-13  # some tens of terms, summed in another order


@over_families
def test_masks_and_tokens_do_not_see_padding(name: str, family: str) -> None:
    model = build(family, torch.float64)
    plain = run(model, method_of(name))
    given = arguments(BATCH)
    wide = {
        "input_ids": torch.nn.functional.pad(given["input_ids"], (5, 0), value=PAD),
        "attention_mask": torch.nn.functional.pad(given["attention_mask"], (5, 0), value=0),
    }
    assert run(model, method_of(name), **wide) == plain
    # The padding id does not matter either.
    other = given["input_ids"].masked_fill(given["attention_mask"] == 0, 33)
    assert run(model, method_of(name), input_ids=other) == plain


@over_families
def test_masks_do_not_see_the_order_of_rows(name: str, family: str) -> None:
    model = build(family, torch.float64)
    tokens, masks, _ = run(model, method_of(name))
    order = [2, 0, 3, 1]
    given = arguments(BATCH)
    turned = run(
        model, method_of(name), **{key: given[key][order] for key in ("input_ids", "attention_mask")}
    )
    assert turned[:2] == ([tokens[row] for row in order], masks)


@over_families
def test_a_used_session_is_as_a_fresh_one(name: str, family: str) -> None:
    """Results are equal bit for bit, in float32."""
    model, method = build(family), method_of(name)
    fresh = run(model, method)
    with regrow.prune(
        model, method, calibration=calibration_for(model, method), record_masks=True
    ) as session:
        model.generate(**arguments(prompts(7, seed=5)))
        tokens = new_tokens(BATCH, model.generate(**arguments(BATCH)))
        report = session.report().to_dict()
        del (
            report["prefill_seconds"],
            report["decode_seconds"],
            report["sparse_seconds"],
            report["refresh_seconds"],
        )
        assert (tokens, [(step, index.tolist()) for step, index in session.masks], report) == fresh


@over_families
def test_leaving_restores_logits_and_attributes(name: str, family: str) -> None:
    model = build(family)
    model.generate(**arguments(BATCH))

    def seen() -> tuple[list[list[tuple[str, int]]], list[str], list[float]]:
        with torch.no_grad():
            logits = model(arguments(BATCH)["input_ids"], use_cache=False).logits
        return (
            [[(key, id(value)) for key, value in vars(m).items()] for m in model.modules()],
            list(model.state_dict()),
            logits.tolist(),
        )

    before = seen()
    run(model, method_of(name))
    assert seen() == before


@over_variants
def test_what_it_keeps_is_what_its_sparsity_says(name: str) -> None:
    """Top k keeps exactly k neurons, thresholds keep between none and all; other sites stay dense."""
    method = method_of(name)
    tokens, masks, report = run(build("qwen2"), method)
    assert report["target_sparsity"] == float(method.target)
    assert report["tokens"] == [len(row) for row in tokens]
    own = {site.value for site in method.sites}
    for site, counted in report["sites"].items():
        assert (
            all(kept == dense > 0 for kept, dense in zip(counted["kept"], counted["dense"], strict=True))
            or site in own
        )
    assert report["weights_dense"] == sum(sum(report["sites"][site]["dense"]) for site in own)
    assert report["actual_sparsity"] == 1 - report["weights_kept"] / report["weights_dense"]
    if method.surface is Surface.WEIGHTS:
        assert report["actual_sparsity"] == pytest.approx(float(method.target), abs=1 / WIDTH)
        assert report["bytes_read"] == sum(sum(counted["dense"]) for counted in report["sites"].values()) * 4
        return
    assert report["bytes_read"] == sum(sum(counted["kept"]) for counted in report["sites"].values()) * 4
    if method.needs is Needs.THRESHOLDS:
        assert 0 < report["actual_sparsity"] < 1
    elif masks:
        kept = NEURONS * 4 // 10
        assert {len(layer) for _, mask in masks for layer in mask} == {kept}
        assert report["actual_sparsity"] == pytest.approx(
            report["sparse_share"] * (1 - kept / NEURONS), rel=1e-12
        )


@over_variants
def test_its_description_makes_it_again(name: str) -> None:
    method, called = method_of(name), VARIANTS[name][0]
    described = method.describe()
    assert described.pop("name") == called
    assert list(parameters(called)) == [field.name for field in fields(METHODS[called])]
    implied = {key: value for key, value in method.added.items() if key not in described}
    assert set(described) | set(implied) == set(parameters(called))
    assert all(getattr(method, key) == value for key, value in implied.items())
    assert make(called, **described).describe() == method.describe()
    assert method.summary
    assert method.source


@over_variants
def test_bad_parameters_are_refused_before_any_model(name: str) -> None:
    bad: dict[str, Any] = {
        "sparsity": 1,
        "init_steps": -1,
        "explore_steps": 99,
        "period": 0,
        "aggregate": "median",
        "memory": "",
        "decay": 2,
        "selection": "best",
        "weigh": "up",
        "share": "max",
        "pattern": "4:8",
        "seed": -1,
    }
    called = VARIANTS[name][0]
    for key in [key for key in bad if key in parameters(called)]:
        with pytest.raises(UsageError):
            method_of(name, **{key: bad[key]})
    with pytest.raises(UsageError, match="has no parameter 'nothing'"):
        make(called, nothing=1)
    with pytest.raises(UsageError, match=f"unknown method '{called}x'; choose one of"):
        make(f"{called}x")


@over_variants
def test_a_calibration_is_asked_for_and_has_to_fit(name: str) -> None:
    model, method = build("qwen2"), method_of(name)
    calibration = calibration_for(model, method)
    other = build("llama")
    if calibration is None:
        stray = calibration_for(model, make("teal"))
        with (
            pytest.raises(UsageError, match="takes no calibration"),
            regrow.prune(model, method, calibration=stray),
        ):
            pass
        return
    with (
        pytest.raises(UsageError, match="needs a calibration of this model: make one with `regrow calibrate"),
        regrow.prune(model, method),
    ):
        pass
    with (
        pytest.raises(UsageError, match="not for this model"),
        regrow.prune(other, method, calibration=calibration),
    ):
        pass
    foreign = make("cats" if method.name == "teal" else "teal")
    with (
        pytest.raises(UsageError, match=rf"made for {method.name} \(sparsity=.*\), not for {foreign.name}"),
        regrow.prune(model, foreign, calibration=calibration),
    ):
        pass
    assert "generate" not in vars(model)
