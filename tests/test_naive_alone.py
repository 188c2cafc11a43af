"""Tests of the naive reference alone: its arithmetic, identities of the method, and the drawn cases."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import naive
from naive_cases import (
    FAMILIES,
    PROMPTS,
    SEEDS_64,
    Case,
    draw,
    draw_eos,
    expected,
    masks_of,
    new_columns,
    settings,
    stock_arguments,
)


def scores_of(outcome: naive.Outcome) -> Tensor:
    """Return mbar of every selection and layer, [selections, L, F]."""
    return torch.stack([torch.stack(selection.scores) for selection in outcome.selections])


@pytest.mark.parametrize(
    ("sparsity", "neurons", "k"),
    [("0.9", 8960, 896), ("0.5", 25, 12), ("0", 7, 7), ("0.85", 24, 3), ("0.3", 10, 7)],
)
def test_kept_count_reads_the_written_decimal(sparsity: str, neurons: int, k: int) -> None:
    assert naive.kept_count(sparsity, neurons) == k


@pytest.mark.parametrize(
    ("init", "explore", "period", "modes", "ends"),
    [
        (2, 2, 5, "ddsssddsssddsssdd", [2, 7, 12, 17]),
        (0, 1, 3, "ssdssdssd", [0, 3, 6, 9]),
        (3, 0, 4, "dddsssssssss", [3]),
        (0, 0, 2, "ssssssss", [0]),
        (1, 2, 2, "ddddddd", [1, 3, 5, 7]),
    ],
)
def test_schedule(init: int, explore: int, period: int, modes: str, ends: list[int]) -> None:
    s = settings(init_steps=init, explore_steps=explore, period=period)
    assert "".join("s" if naive.is_sparse(s, step) else "d" for step in range(1, len(modes) + 1)) == modes
    assert [step for step in range(len(modes) + 1) if naive.ends_dense_stage(s, step)] == ends


def test_score_of_two_tokens_by_hand() -> None:
    tokens = [torch.tensor([3.0, 0.0, -4.0, 0.0]), torch.tensor([0.0, 0.0, 2.0, 0.0]), torch.zeros(4)]
    want = torch.tensor([0.36 / 3, 0.0, 1.64 / 3, 0.0], dtype=torch.float64).sqrt()
    torch.testing.assert_close(naive.score(tokens, 4, torch.float64), want)


def test_retained_set_takes_the_lower_index_of_a_tie() -> None:
    assert naive.retain(torch.tensor([0.5, 0.0, 0.7, 0.5, 0.5]), 3) == ([0, 2, 3], 0.0)
    assert naive.retain(torch.tensor([0.5, 0.0, 0.25]), 1) == ([0], 0.5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "change", [{"sparsity": "0"}, {"period": 3, "explore_steps": 3}], ids=["keep-all", "no-sparse-steps"]
)
def test_reference_without_pruning_is_stock_generate(family: str, change: dict[str, Any]) -> None:
    case = Case(family, torch.float64, PROMPTS, settings(**change))
    eos = draw_eos(random.Random(2), expected(case).tokens)
    case = replace(case, settings=replace(case.settings, eos=eos, pad=min(eos)))
    outcome = expected(case)
    assert outcome.columns == new_columns(case, case.model.generate(**stock_arguments(case)))
    assert "eos" in outcome.finish_reasons


@pytest.mark.parametrize("family", FAMILIES)
def test_reference_with_one_prompt_and_no_exploration_is_griffin(family: str) -> None:
    case = Case(family, torch.float64, (PROMPTS[3],), settings(init_steps=0, explore_steps=0))
    outcome = expected(case)
    assert masks_of(outcome) == [(0, naive.griffin(case.model, PROMPTS[3], "0.5"))]
    assert outcome.sparse_steps == outcome.decode_steps == 23


@pytest.mark.parametrize("family", FAMILIES)
def test_reference_on_identical_prompts_gives_the_masks_of_one(family: str) -> None:
    one = expected(Case(family, torch.float64, PROMPTS[3:], settings()))
    many = expected(Case(family, torch.float64, PROMPTS[3:] * 3, settings()))
    assert masks_of(many) == masks_of(one)
    assert many.tokens == one.tokens * 3


def test_reference_does_not_see_padding_or_the_order_of_rows() -> None:
    """The scores of the first mask are the maximum over each prompt alone, up to float64 rounding."""
    plain = settings(init_steps=0)
    together = scores_of(expected(Case("qwen2", torch.float64, PROMPTS, plain)))
    turned = scores_of(expected(Case("qwen2", torch.float64, PROMPTS[::-1], plain)))
    alone = [scores_of(expected(Case("qwen2", torch.float64, (prompt,), plain)))[0] for prompt in PROMPTS]
    torch.testing.assert_close(turned, together, rtol=1e-9, atol=0)
    torch.testing.assert_close(together[0], torch.stack(alone).amax(0), rtol=1e-9, atol=0)


@pytest.mark.parametrize("seed", SEEDS_64)
def test_reference_counts_generated_tokens_before_the_end_only(seed: int) -> None:
    """T_b of a phase is the number of its dense steps in which row b was fed a token before its EOS.

    T_b of the prompt is the length of the prompt.
    """
    case = draw(seed, torch.float64)
    outcome, s = expected(case), case.settings
    assert outcome.counts[0] == [len(prompt) for prompt in case.prompts]
    ends = [0] + [step for step in range(1, outcome.decode_steps + 1) if naive.ends_dense_stage(s, step)]
    assert len(outcome.counts) == len(ends)
    for (begin, end), counts in zip(itertools.pairwise(ends), outcome.counts[1:], strict=True):
        dense = [step for step in range(begin + 1, end + 1) if not naive.is_sparse(s, step)]
        assert counts == [sum(step < len(row) for step in dense) for row in outcome.tokens]


def test_the_drawn_cases_reach_the_corners() -> None:
    """The comparison is only as good as its cases, so every corner of the method must occur in some."""
    drawn = [(case, expected(case)) for case in (draw(seed, torch.float64) for seed in SEEDS_64)]
    corners = {
        "T_init = 0": [case.settings.init_steps == 0 for case, _ in drawn],
        "T_e = 0": [case.settings.explore_steps == 0 for case, _ in drawn],
        "T_p = 0": [case.settings.explore_steps == case.settings.period for case, _ in drawn],
        "one-token prompt": [any(len(prompt) == 1 for prompt in case.prompts) for case, _ in drawn],
        "EOS in a prompt": [
            any(case.settings.eos & set(prompt) for prompt in case.prompts) for case, _ in drawn
        ],
        "pad is an EOS": [case.settings.pad in case.settings.eos for case, _ in drawn],
        "rows end at different steps": [len({len(row) for row in out.tokens}) > 2 for _, out in drawn],
        "all rows end early": [out.finish_reasons.count("length") == 0 for _, out in drawn],
        "T_b = 0": [any(0 in counts for counts in out.counts) for _, out in drawn],
        "a finished row is forgotten": [
            case.settings.forget_finished
            and any(s.step >= min(map(len, out.tokens)) - 1 for s in out.selections)
            for case, out in drawn
        ],
        "tie at the k-th score": [out.score_gap == 0 for _, out in drawn],
        "the mask changes": [
            len({str(s.kept) for s in out.selections if s.sparse_steps}) > 2 for _, out in drawn
        ],
    }
    assert {name: sum(held) for name, held in corners.items() if sum(held) < 3} == {}
