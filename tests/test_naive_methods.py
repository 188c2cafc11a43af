"""Compares the other methods with the naive reference of `naive_methods.py`.

The models are tiny and random. Parameters, thresholds and batches are random too.
"""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import pytest
import torch

import naive
import naive_methods
import regrow
from calibrations import calibration_for
from naive_cases import (
    FAMILIES,
    PROMPTS,
    VOCABULARY,
    Case,
    draw_settings,
    masks_of,
    method_of,
    new_columns,
    run,
    settings,
    stock_arguments,
)
from naive_methods import Inputs, Outcome, Tokens
from naive_rules import aggregate, kept_count, remember, retain, weigh
from regrow.calibration.calibration import Calibration
from regrow.method.base import Method
from regrow.method.presets import make

SEEDS = range(12)
TEXT = [
    torch.tensor(random.Random(length).choices(range(VOCABULARY), k=length)) for length in (17, 30, 23, 9)
]
SPARSITIES = ("0.2", "0.3", "0.5", "0.6", "0.8")
ON_INPUTS = [
    {"ffn_only": ffn, "share": share}
    for ffn, share in itertools.product((False, True), ("mean_abs", "abs_mean"))
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
    "bap threshold": ("bap", []),  # its options are drawn with the schedule
}


@dataclass(frozen=True, eq=False)
class Drawn:
    """A comparison: a case of `naive_cases`, a method and its calibration."""

    case: Case
    method: Any
    calibration: Calibration | None

    @property
    def thresholds(self) -> dict[str, float] | None:
        """Thresholds by module name, or None without a calibration."""
        return self.calibration and {name: float(value) for name, value in self.calibration.tensors.items()}


@functools.cache
def calibrated(family: str, method: Method) -> Calibration | None:
    """Return the calibration that the method needs for the model of the family."""
    return calibration_for(Case(family, torch.float64, (), settings()).model, method, TEXT)


@functools.cache
def draw(kind: str, seed: int) -> Drawn:
    """Return a random comparison. Its EOS ids are tokens that the reference generates early."""
    rng = random.Random(f"{kind} {seed}")
    name, options = KINDS[kind]
    family, sparsity = FAMILIES[seed % len(FAMILIES)], rng.choice(SPARSITIES)
    rows = 1 if seed % 3 == 0 else 4
    prompts = tuple(
        tuple(rng.choices(range(VOCABULARY), k=rng.choice((1, *range(1, 11))))) for _ in range(rows)
    )
    if name == "bap":
        weighing = ("none", "down")[seed // 2 % 2]
        plan = replace(draw_settings(rng), sparsity=sparsity, max_new_tokens=26, weigh=weighing)
        method: Any = replace(method_of(plan), selection="threshold")
    else:
        plan = settings(
            sparsity=sparsity, init_steps=0, explore_steps=0, period=1, max_new_tokens=rng.randint(20, 26)
        )
        method = make(name, sparsity=sparsity, **options[seed % len(options)])
    calibration = calibrated(family, method)
    # Any thresholds will do. Different ones for every module show which threshold is used where.
    if calibration is not None and seed % 4:
        calibration = replace(
            calibration, tensors={k: t * rng.uniform(0.4, 1.8) for k, t in calibration.tensors.items()}
        )
    first = Drawn(Case(family, torch.float64, prompts, replace(plan, max_new_tokens=9)), method, calibration)
    tokens = reference(first)[0].tokens
    eos = frozenset(rng.choice(row[2:8]) for row in tokens[1:3])
    pad = min(eos, default=0) if rng.random() < 0.5 else rng.randrange(VOCABULARY)
    return replace(first, case=replace(first.case, settings=replace(plan, eos=eos, pad=pad)))


def rule_of(drawn: Drawn) -> Inputs | Tokens:
    """Return the reference's rule for a method that looks at the current step only."""
    method, thresholds, sparsity = drawn.method, drawn.thresholds, drawn.case.settings.sparsity
    if method.name == "every-token":
        return Tokens(None, sparsity, method.aggregate)
    if method.name == "cats":
        return Tokens(thresholds, share=method.share)
    sites = ("gate_up", "down") if method.ffn_only else ("qkv", "o", "gate_up", "down")
    return Inputs(thresholds, sparsity, method.name == "wina", method.share, sites)


RETAINED = ("griffin", "magnitude", "bap")


def chosen(drawn: Drawn, known: naive.Statistics, layer: int, finished: Sequence[bool]) -> list[int] | None:
    """Return the neurons of a layer to retain, given the activations so far and the finished rows."""
    method, plan, mlp = drawn.method, drawn.case.settings, drawn.case.model.model.layers[layer].mlp
    if method.name == "bap":  # mbar above a threshold
        memories = [remember(plan, scores) for scores in known.scores[layer]]
        stay = [
            m
            for m, done in zip(memories, finished, strict=True)
            if m is not None and not (plan.forget_finished and done)
        ]
        thresholds = drawn.thresholds or {}  # empty if no step is sparse
        return (
            naive_methods.choose(
                weigh(plan, aggregate(plan, stay), known.downs[layer]),
                "",
                thresholds[f"model.layers.{layer}.mlp"],
            )
            if stay and thresholds
            else None
        )
    if method.name == "griffin":
        # s_b[j] = sqrt(sum_t zbar_t[j]^2) of a prompt; over the batch the sum or maximum of s_b / sqrt(T_b).
        rows = [
            torch.stack([naive_methods.relative(z) for z in row]).norm(dim=0) / len(row) ** 0.5
            for row in known.phases[0][layer]
        ]
        score = torch.stack(rows).amax(0) if method.aggregate == "max" else torch.stack(rows).sum(0)
    else:  # sqrt(||W_g[j]||^2 + ||W_1[j]||^2 + ||W_2[:, j]||^2)
        fused = hasattr(mlp, "gate_up_proj")
        parts = [
            *(mlp.gate_up_proj.weight.chunk(2) if fused else (mlp.gate_proj.weight, mlp.up_proj.weight)),
            mlp.down_proj.weight.T,
        ]
        score = torch.tensor(
            [sum(float(part[j] @ part[j]) for part in parts) ** 0.5 for j in range(len(parts[0]))],
            dtype=torch.float64,
        )
    return retain(score, kept_count(plan.sparsity, len(score)))[0]


def retained(drawn: Drawn) -> tuple[Outcome, list[tuple[int, list[list[int]]]]]:
    """Return the outcome and the masks of the reference of `naive.py`, with neurons chosen by `chosen`."""

    def select(self: naive.Statistics, step: int, finished: Sequence[bool]) -> naive.Selection | None:
        kept = [chosen(drawn, self, layer, finished) for layer in range(self.layers)]
        return None if None in kept else naive.Selection(step, kept, [], 0.0)

    model, plan = drawn.case.model, drawn.case.settings
    with patch.object(naive.Statistics, "select", select):
        out = naive.generate(model, drawn.case.prompts, plan)
    neurons, width = model.config.intermediate_size, model.config.hidden_size
    computed = [neurons * (out.decode_steps - out.sparse_steps)] * model.config.num_hidden_layers
    for selection in out.selections:
        computed = [
            n + len(kept) * selection.sparse_steps for n, kept in zip(computed, selection.kept, strict=True)
        ]
    dense = naive_methods.sizes(model, out.decode_steps)
    own = {"gate_up": [2 * n * width for n in computed], "down": [n * width for n in computed]}
    return Outcome(out.columns, out.tokens, dense | own, dense), masks_of(out)


@functools.cache
def reference(drawn: Drawn) -> tuple[Outcome, list[tuple[int, list[list[int]]]]]:
    """Return the outcome of the reference, and its masks if the method retains neurons."""
    if drawn.method.name in RETAINED:
        return retained(drawn)
    return naive_methods.generate(
        drawn.case.model, drawn.case.prompts, drawn.case.settings, rule_of(drawn)
    ), []


def check(drawn: Drawn, **more: Any) -> None:
    """Assert that regrow gives the tokens, masks and counters of the reference.

    `more` is passed to `generate`.
    """
    want, masks = reference(drawn)
    with regrow.prune(
        drawn.case.model, drawn.method, calibration=drawn.calibration, record_masks=True
    ) as session:
        columns = new_columns(drawn.case, drawn.case.model.generate(**stock_arguments(drawn.case), **more))
        report = session.report()
    assert columns == want.columns
    assert [
        (step, [[j for j in row if j >= 0] for row in index.tolist()]) for step, index in session.masks
    ] == masks
    assert {site: count.kept for site, count in report.sites.items()} == want.kept
    assert {site: count.dense for site, count in report.sites.items()} == want.dense


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", KINDS)
def test_regrow_equals_the_reference(kind: str, seed: int) -> None:
    check(draw(kind, seed))


@pytest.mark.parametrize(("kind", "seed"), [("teal", 1), ("wina topk", 11)])
def test_regrow_fed_the_prompt_in_chunks_equals_the_reference(kind: str, seed: int) -> None:
    check(draw(kind, seed), prefill_chunk_size=3)


@pytest.mark.parametrize("family", FAMILIES)
def test_random_neurons_are_drawn_by_the_seed_alone(family: str) -> None:
    def masks(seed: int, prompts: tuple[tuple[int, ...], ...]) -> list[tuple[int, list[list[int]]]]:
        return run(
            Case(family, torch.float64, prompts, settings()), make("random", sparsity="0.7", seed=seed)
        ).masks

    model, ((step, drawn),) = Case(family, torch.float64, (), settings()).model, masks(3, PROMPTS)
    assert [len(set(row)) for row in drawn] == [
        kept_count("0.7", model.config.intermediate_size)
    ] * model.config.num_hidden_layers
    assert len({str(row) for row in drawn}) == len(drawn)  # every layer has its own
    assert masks(3, PROMPTS[:1]) == [(step, drawn)] == [(0, [sorted(row) for row in drawn])]
    assert masks(4, PROMPTS) != [(step, drawn)]


def test_the_drawn_cases_reach_the_corners() -> None:
    """The comparison is only as good as its cases: every corner must occur, for every kind of method."""
    for kind in KINDS:
        runs = [(drawn, reference(drawn)[0]) for drawn in (draw(kind, seed) for seed in SEEDS)]
        shares = [sum(map(sum, want.kept.values())) / sum(map(sum, want.dense.values())) for _, want in runs]
        corners = {
            "one row": [len(want.tokens) == 1 for _, want in runs],
            "rows end at different steps": [len({len(row) for row in want.tokens}) > 2 for _, want in runs],
            "prompts of one token": [
                any(len(prompt) == 1 for prompt in drawn.case.prompts) for drawn, _ in runs
            ],
            "pad is an EOS": [drawn.case.settings.pad in drawn.case.settings.eos for drawn, _ in runs],
            "something is pruned": [share < 0.99 for share in shares],
            "something is left": [share > 0.1 for share in shares],
        }
        assert {name: sum(held) for name, held in corners.items() if not sum(held)} == {}, kind
