"""Regrow's other methods against the naive reference of `naive_methods.py`, on random tiny models, parameters, thresholds and batches."""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

import naive
import naive_methods
import regrow
from calibrations import calibration_for
from naive_cases import FAMILIES, PROMPTS, VOCABULARY, Case, draw_settings, masks_of, method_of, new_columns, settings, stock_arguments
from naive_methods import Inputs, Outcome, Place, Tokens
from naive_rules import aggregate, kept_count, remember, retain
from regrow.calibration.result import Calibration
from regrow.method.base import Method
from regrow.method.presets import make

SEEDS = range(12)
TEXT = [torch.tensor(random.Random(length).choices(range(VOCABULARY), k=length)) for length in (17, 30, 23, 9)]
SPARSITIES = ("0.2", "0.3", "0.5", "0.6", "0.8")
ON_INPUTS = [
    {"ffn_only": ffn, "share": share, "prompt": prompt}
    for ffn, share, prompt in itertools.product((False, True), ("mean_abs", "abs_mean"), ("dense", "second_half"))
]
KINDS: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "teal": ("teal", ON_INPUTS),
    "wina": ("wina", ON_INPUTS),
    "wina topk": ("wina", [{"selection": "topk"} | on for on in ON_INPUTS]),
    "cats": ("cats", [{}]),
    "cats rows": ("cats", [{"share": "none"}]),
    "every token": ("every-token", [{"aggregate": "max"}, {"aggregate": "mean"}]),
    "griffin": ("griffin", [{"aggregate": "sum"}, {"aggregate": "max"}]),
    "magnitude": ("magnitude", [{}]),
    "bap threshold": ("bap", []),  # drawn with the schedule
}


@dataclass(frozen=True, eq=False)
class Drawn:
    """A comparison: a case of `naive_cases`, a method, and what it is calibrated with."""

    case: Case
    method: Any
    calibration: Calibration | None

    @property
    def thresholds(self) -> dict[str, float] | None:
        """By the name of a module."""
        return self.calibration and {name: float(value) for name, value in self.calibration.tensors.items()}


@functools.cache
def calibrated(family: str, method: Method) -> Calibration | None:
    """Return what the method needs of the family's model."""
    return calibration_for(Case(family, torch.float64, (), settings()).model, method, TEXT)


@functools.cache
def draw(kind: str, seed: int) -> Drawn:
    """Return a random comparison; its EOS ids are tokens that the reference generates early."""
    rng = random.Random(f"{kind} {seed}")
    name, options = KINDS[kind]
    family, sparsity = FAMILIES[seed % len(FAMILIES)], rng.choice(SPARSITIES)
    rows = 1 if seed % 3 == 0 else 4
    prompts = tuple(tuple(rng.choices(range(VOCABULARY), k=rng.randint(1, 10))) for _ in range(rows))
    if name == "bap":
        plan = replace(draw_settings(rng), sparsity=sparsity, max_new_tokens=26)
        method: Any = replace(method_of(plan), selection="threshold")
    else:
        plan = settings(sparsity=sparsity, init_steps=0, explore_steps=0, period=1, max_new_tokens=rng.randint(20, 26))
        method = make(name, sparsity=sparsity, **options[seed % len(options)])
    calibration = calibrated(family, method)
    if calibration is not None and seed % 4:  # any thresholds do: other ones for every module show whose is used
        calibration = replace(calibration, tensors={k: t * rng.uniform(0.4, 1.8) for k, t in calibration.tensors.items()})
    first = Drawn(Case(family, torch.float64, prompts, replace(plan, max_new_tokens=9)), method, calibration)
    tokens = reference(first)[0].tokens
    eos = frozenset(rng.choice(row[2:8]) for row in tokens[1:3])
    pad = min(eos, default=0) if rng.random() < 0.5 else rng.randrange(VOCABULARY)
    return replace(first, case=replace(first.case, settings=replace(plan, eos=eos, pad=pad)))


def rule_of(drawn: Drawn) -> Inputs | Tokens:
    """Return the reference's rule for a method that goes by each step alone."""
    method, thresholds, sparsity = drawn.method, drawn.thresholds, drawn.case.settings.sparsity
    if method.name == "every-token":
        return Tokens(None, sparsity, method.aggregate)
    if method.name == "cats":
        return Tokens(thresholds, share=method.share)
    sites = ("gate_up", "down") if method.ffn_only else ("qkv", "o", "gate_up", "down")
    return Inputs(thresholds, sparsity, method.name == "wina", method.share, method.prompt == "second_half", sites)


Choice = Callable[[naive.Statistics, int, Sequence[bool]], list[int] | None]  # what is known, layer, who has finished


def griffin(drawn: Drawn) -> Choice:
    """s_b[j] = sqrt(sum_t zbar_t[j]^2) of the prompt; top k of the sum or maximum over the batch of s_b / sqrt(T_b)."""

    def choose(known: naive.Statistics, layer: int, finished: Sequence[bool]) -> list[int]:
        rows = [torch.stack([naive_methods.relative(z) for z in row]).norm(dim=0) / len(row) ** 0.5 for row in known.phases[0][layer]]
        score = torch.stack(rows).amax(0) if drawn.method.aggregate == "max" else sum(rows, torch.zeros(()))
        return retain(score, kept_count(drawn.case.settings.sparsity, len(score)))[0]

    return choose


def magnitude(drawn: Drawn) -> Choice:
    """sqrt(||W_g[j]||^2 + ||W_1[j]||^2 + ||W_2[:, j]||^2), top k."""

    def choose(known: naive.Statistics, layer: int, finished: Sequence[bool]) -> list[int]:
        mlp = drawn.case.model.model.layers[layer].mlp
        fused = hasattr(mlp, "gate_up_proj")
        parts = [*(mlp.gate_up_proj.weight.chunk(2) if fused else (mlp.gate_proj.weight, mlp.up_proj.weight)), mlp.down_proj.weight.T]
        score = torch.tensor([sum(float(part[j] @ part[j]) for part in parts) ** 0.5 for j in range(len(parts[0]))])
        return retain(score, kept_count(drawn.case.settings.sparsity, len(score)))[0]

    return choose


def bap(drawn: Drawn) -> Choice:
    """The neurons whose mbar exceeds the layer's threshold."""

    def choose(known: naive.Statistics, layer: int, finished: Sequence[bool]) -> list[int] | None:
        plan, thresholds = drawn.case.settings, drawn.thresholds
        memories = [remember(plan, scores) for scores in known.scores[layer]]
        stay = [m for m, done in zip(memories, finished, strict=True) if m is not None and not (plan.forget_finished and done)]
        return naive_methods.choose(aggregate(plan, stay), "", thresholds[f"model.layers.{layer}.mlp"]) if stay else None

    return choose


RETAINED: Mapping[str, Callable[[Drawn], Choice]] = {"griffin": griffin, "magnitude": magnitude, "bap": bap}


def retained(drawn: Drawn, choose: Choice) -> tuple[Outcome, list[tuple[int, list[list[int]]]]]:
    """Return what the reference of `naive.py` gives where the neurons are chosen by something else, and its masks."""

    def select(self: naive.Statistics, step: int, finished: Sequence[bool]) -> naive.Selection | None:
        kept = [choose(self, layer, finished) for layer in range(self.layers)]
        return None if None in kept else naive.Selection(step, kept, [], 0.0)

    model, plan = drawn.case.model, drawn.case.settings
    with patch.object(naive.Statistics, "select", select):
        run = naive.generate(model, drawn.case.prompts, plan)
    neurons, width = model.config.intermediate_size, model.config.hidden_size
    computed = [neurons * (run.decode_steps - run.sparse_steps)] * model.config.num_hidden_layers
    for selection in run.selections:
        computed = [n + len(kept) * selection.sparse_steps for n, kept in zip(computed, selection.kept, strict=True)]
    dense = naive_methods.sizes(model, run.decode_steps)
    own = {"gate_up": [2 * n * width for n in computed], "down": [n * width for n in computed]}
    return Outcome(run.columns, run.tokens, dense | own, dense), masks_of(run)


@functools.cache
def reference(drawn: Drawn) -> tuple[Outcome, list[tuple[int, list[list[int]]]]]:
    """Return what the reference gives, with its masks where neurons are retained."""
    if drawn.method.name in RETAINED:
        return retained(drawn, RETAINED[drawn.method.name](drawn))
    return naive_methods.generate(drawn.case.model, drawn.case.prompts, drawn.case.settings, rule_of(drawn)), []


def check(drawn: Drawn, **more: Any) -> None:
    """Assert that regrow gives the reference's tokens, masks and account; with more arguments of `generate`."""
    want, masks = reference(drawn)
    with regrow.prune(drawn.case.model, drawn.method, calibration=drawn.calibration, record_masks=True) as session:
        columns = new_columns(drawn.case, drawn.case.model.generate(**stock_arguments(drawn.case), **more))
        report = session.report()
    assert columns == want.columns
    assert [(step, [[j for j in row if j >= 0] for row in index.tolist()]) for step, index in session.masks] == masks
    assert {site: count.kept for site, count in report.sites.items()} == want.kept
    assert {site: count.dense for site, count in report.sites.items()} == want.dense


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", KINDS)
def test_regrow_equals_the_reference(kind: str, seed: int) -> None:
    check(draw(kind, seed))
