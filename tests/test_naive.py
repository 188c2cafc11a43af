"""Compares regrow with the naive reference of `naive.py`, on random tiny models, schedules and batches."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

import naive
import regrow
from naive_cases import (
    FAMILIES,
    PROMPTS,
    SEEDS_16,
    SEEDS_32,
    SEEDS_64,
    Actual,
    Case,
    draw,
    draw_eos,
    expected,
    masks_of,
    method_of,
    new_columns,
    run,
    settings,
    stock_arguments,
)

ROUNDING = 1e-5  # relative rounding error allowed for scores in float32


def turnover(masks: Sequence[tuple[int, list[list[int]]]]) -> list[float]:
    """Return 1 - |I_n & I_(n-1)| / k per layer, averaged over the reselections."""
    pairs = list(itertools.pairwise(masks))
    return [
        sum(1 - len(set(old[layer]) & set(new[layer])) / len(new[layer]) for (_, old), (_, new) in pairs)
        / len(pairs)
        for layer in range(len(masks[0][1]) if pairs else 0)
    ]


def check_report(case: Case, outcome: naive.Outcome, report: Any) -> None:
    """Assert that a report has the counters of the reference."""
    layers, neurons = case.model.config.num_hidden_layers, case.model.config.intermediate_size
    neuron = 3 * case.model.config.hidden_size  # weights of one neuron
    assert report.decode_steps == outcome.decode_steps
    assert report.sparse_steps == outcome.sparse_steps
    assert report.weights_kept == outcome.neurons_computed * neuron
    masks = masks_of(outcome)
    assert report.updates == len(masks)
    assert report.turnover == pytest.approx(turnover(masks)) if turnover(masks) else not any(report.turnover)
    assert report.weights_dense == layers * neurons * outcome.decode_steps * neuron
    assert list(report.tokens) == [len(row) for row in outcome.tokens]
    assert list(report.finish_reasons) == outcome.finish_reasons


def first_difference(outcome: naive.Outcome, actual: Actual) -> float | None:
    """Return the moment of the first difference, or None.

    It is f if the token chosen by forward f (0 = prompt) differs, and f + 0.5 if the mask made after it
    differs.
    """
    tokens = zip(outcome.columns, actual.columns, strict=False)
    masks = zip(masks_of(outcome), actual.masks, strict=False)
    found: list[float] = [forward for forward, (want, got) in enumerate(tokens) if want != got]
    found += [min(want[0], got[0]) + 0.5 for want, got in masks if want != got]
    return min(found, default=None)


def closest_call(outcome: naive.Outcome, moment: float) -> float:
    """Return the smallest relative gap of any choice of a token or a mask up to this moment.

    Moments are those of `first_difference`.
    """
    gaps = [gap for forward, gap in enumerate(outcome.logit_gaps) if forward <= moment]
    return min(gaps + [selection.gap for selection in outcome.selections if selection.step + 0.5 <= moment])


def check_equal(case: Case, outcome: naive.Outcome, actual: Actual) -> None:
    """Assert that regrow gives the tokens, masks and counters of the reference."""
    assert actual.columns == outcome.columns
    assert actual.masks == masks_of(outcome)
    check_report(case, outcome, actual.report)


@pytest.mark.parametrize("seed", SEEDS_64)
def test_regrow_equals_the_reference_in_float64(seed: int) -> None:
    case = draw(seed, torch.float64)
    check_equal(case, expected(case), run(case, method_of(case.settings)))


@pytest.mark.parametrize("family", FAMILIES)
def test_regrow_fed_the_prompt_in_chunks_equals_the_reference(family: str) -> None:
    case = Case(family, torch.float64, PROMPTS, settings(init_steps=0))
    check_equal(case, expected(case), run(case, method_of(case.settings), prefill_chunk_size=4))


@pytest.mark.parametrize("tokens", [1, 2, 3, 4])
@pytest.mark.parametrize("init", [0, 1, 2])
def test_regrow_equals_the_reference_on_runs_that_end_around_the_first_mask(init: int, tokens: int) -> None:
    case = Case(
        "qwen2",
        torch.float64,
        PROMPTS,
        settings(init_steps=init, explore_steps=1, period=2, max_new_tokens=tokens),
    )
    check_equal(case, expected(case), run(case, method_of(case.settings)))


def test_regrow_starts_every_batch_of_a_session_afresh() -> None:
    plain = settings(init_steps=2, explore_steps=1, period=4)
    cases = [
        Case("qwen2", torch.float64, prompts, plain) for prompts in (PROMPTS, PROMPTS[1:2], PROMPTS[::-1])
    ]
    outcomes = [expected(case) for case in cases]
    with regrow.prune(cases[0].model, method_of(plain), record_masks=True) as session:
        for case, outcome in zip(cases, outcomes, strict=True):
            columns = new_columns(case, case.model.generate(**stock_arguments(case)))
            masks = [(step, kept.tolist()) for step, kept in session.masks]
            check_equal(case, outcome, Actual(columns, masks, session.report()))


@pytest.mark.parametrize("seed", SEEDS_32)
def test_regrow_in_float32_parts_from_the_reference_only_at_a_near_tie(seed: int) -> None:
    case = draw(seed, torch.float32)
    outcome, actual = expected(case), run(case, method_of(case.settings))
    moment = first_difference(outcome, actual)
    if moment is None:
        check_equal(case, outcome, actual)
    else:
        assert closest_call(outcome, moment) < ROUNDING


@pytest.mark.parametrize("seed", SEEDS_16)
def test_regrow_in_bfloat16_keeps_the_schedule(
    seed: int, record_property: Callable[[str, object], None]
) -> None:
    """Rounding in bfloat16 may flip any token, and with it the rest of the run.

    Therefore differences are only counted, but the counters and the times of selections are asserted.
    """
    case = draw(seed, torch.bfloat16)
    outcome, actual, s = expected(case), run(case, method_of(case.settings)), case.settings
    tokens = sum(
        want != got
        for pair in zip(outcome.columns, actual.columns, strict=False)
        for want, got in zip(*pair, strict=True)
    )
    masks = sum(want != got for want, got in zip(masks_of(outcome), actual.masks, strict=False))
    moment = first_difference(outcome, actual)
    near = math.inf if moment is None else closest_call(outcome, moment)
    record_property("tokens differing", tokens)
    record_property("masks differing", masks)
    chosen = len(case.prompts) * len(outcome.columns)
    print(
        f"tokens differing {tokens} of {chosen}, masks {masks} of {len(masks_of(outcome))}, "
        f"closest call before {near:.1e}"
    )

    layers, neurons = case.model.config.num_hidden_layers, case.model.config.intermediate_size
    k, steps = naive.kept_count(s.sparsity, neurons), len(actual.columns) - 1
    sparse = sum(naive.is_sparse(s, step) for step in range(1, steps + 1))
    assert (actual.report.decode_steps, actual.report.sparse_steps) == (steps, sparse)
    assert (
        actual.report.weights_kept
        == layers * (k * sparse + neurons * (steps - sparse)) * 3 * case.model.config.hidden_size
    )
    assert [step for step, _ in actual.masks] == [
        t for t in range(steps) if naive.ends_dense_stage(s, t) and naive.is_sparse(s, t + 1)
    ]
    for _, kept in actual.masks:
        assert len(kept) == layers
        assert all(len(row) == k and row == sorted(set(row)) for row in kept)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rows", [1, 4])
def test_regrow_griffin_equals_the_reference(family: str, rows: int) -> None:
    case = Case(
        family, torch.float64, PROMPTS[-rows:], settings(sparsity="0.7", init_steps=0, explore_steps=0)
    )
    eos = draw_eos(random.Random(rows), expected(case).tokens)
    case = replace(case, settings=replace(case.settings, eos=eos))
    check_equal(case, expected(case), run(case, regrow.Griffin(sparsity="0.7")))
