"""Regrow against the naive reference of `naive.py`, on random tiny models, schedules and batches; and the reference by itself."""

from __future__ import annotations

import functools
import itertools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

import naive
import regrow

VOCABULARY = 40
FAMILIES = ("qwen2", "llama", "phi3", "gemma2", "dead")
ROUNDING = 1e-5  # relative: what method.md grants to scores in float32


def shape(layers: int, width: int, neurons: int, heads: int = 2, key_heads: int = 1) -> dict[str, Any]:
    """Return the settings that every family's configuration shares."""
    return {
        "vocab_size": VOCABULARY,
        "num_hidden_layers": layers,
        "hidden_size": width,
        "intermediate_size": neurons,
        "num_attention_heads": heads,
        "num_key_value_heads": key_heads,
        "max_position_embeddings": 128,
        "tie_word_embeddings": False,
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
    }


BUILDERS: dict[str, Callable[[], Any]] = {
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**shape(3, 32, 64, heads=4, key_heads=2))),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**shape(2, 24, 40), mlp_bias=True)),
    "phi3": lambda: Phi3ForCausalLM(Phi3Config(**shape(2, 16, 24))),  # gate and up fused
    "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**shape(3, 16, 48), head_dim=8, sliding_window=16)),  # GeLU
    "dead": lambda: Qwen2ForCausalLM(Qwen2Config(**shape(2, 16, 56))),  # three neurons in four always zero: exact ties
}


@functools.cache
def model_of(family: str, dtype: torch.dtype) -> Any:
    """Return a random model, the same at every call; weights wide enough for its greedy text not to fall into a loop at once."""
    model = BUILDERS[family]().eval()
    generator = torch.Generator().manual_seed(FAMILIES.index(family))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name:
                parameter.add_(0.1 * noise)
            elif parameter.dim() == 1:
                parameter.copy_(0.3 * noise)
            else:
                parameter.copy_(noise if "embed" in name else noise * 1.5 / math.sqrt(parameter.shape[1]))
        for layer in model.model.layers if family == "dead" else ():
            layer.mlp.gate_proj.weight[torch.arange(56) % 4 > 0] = 0
    return model.to(dtype)


@dataclass(frozen=True)
class Case:
    """One comparison: a model, a batch of prompts and the settings of the run."""

    family: str
    dtype: torch.dtype
    prompts: tuple[tuple[int, ...], ...]
    settings: naive.Settings

    @property
    def model(self) -> Any:
        """The model the case runs on."""
        return model_of(self.family, self.dtype)


def draw_settings(rng: random.Random) -> naive.Settings:
    """Return random settings without an EOS."""
    period = rng.randint(1, 9)
    explore = min(rng.randint(0, 3), period)
    if explore == period and rng.random() < 0.2:
        explore -= 1  # T_p = 0 stays in, less often
    return naive.Settings(
        sparsity=rng.choice(("0.1", "0.25", "0.3", "0.5", "0.6", "0.7", "0.85", "0.9")),
        init_steps=rng.choice((0, 0, *range(1, 11))),
        explore_steps=explore,
        period=period,
        max_new_tokens=rng.randint(20, 60),
        pad=rng.randrange(VOCABULARY),
        aggregate=rng.choice(("max", "max", "mean")),
        memory=rng.choice(("max", "max", "none", "ema")),
        decay=rng.choice((0.5, 0.9)),
        forget_finished=rng.random() < 0.3,
    )


def draw_eos(rng: random.Random, tokens: Sequence[Sequence[int]]) -> frozenset[int]:
    """Return one to three ids, each the first occurrence of a token late in a row, so that rows end, and at different steps."""
    firsts = [[token for i, token in enumerate(row) if token not in row[:i]][-3:] for row in tokens]
    return frozenset(rng.choice(rng.choice(firsts)) for _ in range(rng.randint(1, 3)))


@functools.cache
def draw(seed: int, dtype: torch.dtype) -> Case:
    """Return a random case; its EOS ids are tokens that the model generates under the very settings."""
    rng = random.Random(seed)
    family = FAMILIES[seed % (5 if dtype == torch.float64 else 4)]  # exact ties would excuse any difference in float32
    prompts = tuple(tuple(rng.choices(range(VOCABULARY), k=rng.randint(1, 12))) for _ in range(rng.choice((1, 4, 7))))
    case = Case(family, dtype, prompts, draw_settings(rng))
    if rng.random() < 0.15:
        return case
    eos = draw_eos(rng, naive.generate(case.model, prompts, case.settings).tokens)
    if rng.random() < 0.5:  # an EOS id inside a prompt counts like any token
        prompts = (prompts[0] + (rng.choice(sorted(eos)),) + prompts[0][:2], *prompts[1:])
    pad = rng.choice(sorted(eos)) if rng.random() < 0.5 else case.settings.pad
    return Case(family, dtype, prompts, replace(case.settings, eos=eos, pad=pad))


@functools.cache
def expected(case: Case) -> naive.Outcome:
    """Return what the reference gives."""
    return naive.generate(case.model, case.prompts, case.settings)


def stock_arguments(case: Case) -> dict[str, Any]:
    """Return the arguments of `generate` that ask for a case's run."""
    ids, mask = naive.left_pad(case.prompts, case.settings.pad)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "do_sample": False,
        "max_new_tokens": case.settings.max_new_tokens,
        "eos_token_id": sorted(case.settings.eos) or None,
        "pad_token_id": case.settings.pad,
    }


def new_columns(case: Case, sequences: Tensor) -> list[list[int]]:
    """Return the generated part of [B, P+N] sequences, step by step: [N][B]."""
    return sequences[:, max(len(prompt) for prompt in case.prompts) :].T.tolist()


def method_of(settings: naive.Settings) -> regrow.BatchwiseAdaptive:
    """Return the regrow method that asks for the settings."""
    return regrow.BatchwiseAdaptive(
        sparsity=settings.sparsity,
        init_steps=settings.init_steps,
        explore_steps=settings.explore_steps,
        period=settings.period,
        aggregate=settings.aggregate,
        memory=settings.memory,
        decay=settings.decay,
        forget_finished=settings.forget_finished,
    )


@dataclass(frozen=True)
class Actual:
    """What regrow gave."""

    columns: list[list[int]]  # [N][B]
    masks: list[tuple[int, list[list[int]]]]  # (step, per layer indices)
    report: Any


def run(case: Case, method: Any, **more: Any) -> Actual:
    """Run a case through regrow, with more arguments of `generate`."""
    with regrow.prune(case.model, method, record_masks=True) as session:
        columns = new_columns(case, case.model.generate(**stock_arguments(case), **more))
        return Actual(columns, [(step, kept.tolist()) for step, kept in session.masks], session.report())


def masks_of(outcome: naive.Outcome) -> list[tuple[int, list[list[int]]]]:
    """Return the reference's selections in the form of `session.masks`: without those that no sparse step ran with, which change nothing.

    The reference selects at the end of every dense stage; regrow does not where decoding ends there, or where T_p = 0.
    """
    return [(selection.step, selection.kept) for selection in outcome.selections if selection.sparse_steps]


def turnover(masks: Sequence[tuple[int, list[list[int]]]]) -> list[float]:
    """Return 1 - |I_n & I_(n-1)| / k per layer, averaged over the reselections."""
    pairs = list(itertools.pairwise(masks))
    return [
        sum(1 - len(set(old[layer]) & set(new[layer])) / len(new[layer]) for (_, old), (_, new) in pairs) / len(pairs)
        for layer in range(len(masks[0][1]) if pairs else 0)
    ]


def check_report(case: Case, outcome: naive.Outcome, report: Any) -> None:
    """Assert that the counters of a report are the reference's."""
    layers, neurons = case.model.config.num_hidden_layers, case.model.config.intermediate_size
    assert report.decode_steps == outcome.decode_steps
    assert report.sparse_steps == outcome.sparse_steps
    assert report.neurons_computed == outcome.neurons_computed
    masks = masks_of(outcome)
    assert report.updates == len(masks)
    assert report.turnover == pytest.approx(turnover(masks) or [0.0] * layers)
    assert report.neurons_dense == layers * neurons * outcome.decode_steps
    assert list(report.tokens) == [len(row) for row in outcome.tokens]
    assert list(report.finish_reasons) == outcome.finish_reasons


def first_difference(outcome: naive.Outcome, actual: Actual) -> float | None:
    """Return when the two part: f where the token chosen by forward f (0 = prompt) differs, f + 0.5 where the mask made after it does."""
    tokens = zip(outcome.columns, actual.columns, strict=False)
    masks = zip(masks_of(outcome), actual.masks, strict=False)
    found: list[float] = [forward for forward, (want, got) in enumerate(tokens) if want != got]
    found += [min(want[0], got[0]) + 0.5 for want, got in masks if want != got]
    return min(found, default=None)


def closest_call(outcome: naive.Outcome, moment: float) -> float:
    """Return the smallest relative gap of any choice of a token or of a mask made up to a moment in the sense of `first_difference`."""
    gaps = [gap for forward, gap in enumerate(outcome.logit_gaps) if forward <= moment]
    return min(gaps + [selection.gap for selection in outcome.selections if selection.step + 0.5 <= moment])


def check_equal(case: Case, outcome: naive.Outcome, actual: Actual) -> None:
    """Assert that a run of regrow is the reference's in tokens, masks and counters."""
    assert actual.columns == outcome.columns
    assert actual.masks == masks_of(outcome)
    check_report(case, outcome, actual.report)


# The reference by itself


def scores_of(outcome: naive.Outcome) -> Tensor:
    """Return mbar of every selection and layer, [selections, L, F]."""
    return torch.stack([torch.stack(selection.scores) for selection in outcome.selections])


def settings(**changes: Any) -> naive.Settings:
    """Return plain settings with something changed."""
    plain = naive.Settings(sparsity="0.5", init_steps=3, explore_steps=2, period=6, max_new_tokens=24, pad=0)
    return replace(plain, **changes)


PROMPTS = ((7, 3, 3, 21, 9, 30), (5,), (12, 39, 8), (1, 17, 4, 4, 22, 8, 33, 11, 2))


@pytest.mark.parametrize(("sparsity", "neurons", "k"), [("0.9", 8960, 896), ("0.5", 25, 12), ("0", 7, 7), ("0.85", 24, 3), ("0.3", 10, 7)])
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
@pytest.mark.parametrize("change", [{"sparsity": "0"}, {"period": 3, "explore_steps": 3}], ids=["keep-all", "no-sparse-steps"])
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
    """The first mask's scores are the maximum of those of every prompt alone, up to float64 rounding."""
    plain = settings(init_steps=0)
    together = scores_of(expected(Case("qwen2", torch.float64, PROMPTS, plain)))
    turned = scores_of(expected(Case("qwen2", torch.float64, PROMPTS[::-1], plain)))
    alone = [scores_of(expected(Case("qwen2", torch.float64, (prompt,), plain)))[0] for prompt in PROMPTS]
    torch.testing.assert_close(turned, together, rtol=1e-9, atol=0)
    torch.testing.assert_close(together[0], torch.stack(alone).amax(0), rtol=1e-9, atol=0)


SEEDS_64, SEEDS_32, SEEDS_16 = range(40), range(100, 115), range(200, 205)


@pytest.mark.parametrize("seed", SEEDS_64)
def test_reference_counts_generated_tokens_before_the_end_only(seed: int) -> None:
    """T_b of a phase is the number of its dense steps that fed row b a token before its EOS; of the prompt, the prompt's length."""
    case = draw(seed, torch.float64)
    outcome, s = expected(case), case.settings
    assert outcome.counts[0] == [len(prompt) for prompt in case.prompts]
    ends = [0] + [step for step in range(1, outcome.decode_steps + 1) if naive.ends_dense_stage(s, step)]
    assert len(outcome.counts) == len(ends)
    for (begin, end), counts in zip(itertools.pairwise(ends), outcome.counts[1:], strict=True):
        dense = [step for step in range(begin + 1, end + 1) if not naive.is_sparse(s, step)]
        assert counts == [sum(step < len(row) for step in dense) for row in outcome.tokens]


def test_the_drawn_cases_reach_the_corners() -> None:
    """The comparison below is worth what its cases are: count those that hold each corner of the method."""
    drawn = [(case, expected(case)) for case in (draw(seed, torch.float64) for seed in SEEDS_64)]
    corners = {
        "T_init = 0": [case.settings.init_steps == 0 for case, _ in drawn],
        "T_e = 0": [case.settings.explore_steps == 0 for case, _ in drawn],
        "T_p = 0": [case.settings.explore_steps == case.settings.period for case, _ in drawn],
        "one-token prompt": [any(len(prompt) == 1 for prompt in case.prompts) for case, _ in drawn],
        "EOS in a prompt": [any(case.settings.eos & set(prompt) for prompt in case.prompts) for case, _ in drawn],
        "pad is an EOS": [case.settings.pad in case.settings.eos for case, _ in drawn],
        "rows end at different steps": [len({len(row) for row in out.tokens}) > 2 for _, out in drawn],
        "all rows end early": [out.finish_reasons.count("length") == 0 for _, out in drawn],
        "T_b = 0": [any(0 in counts for counts in out.counts) for _, out in drawn],
        "a finished row is forgotten": [
            case.settings.forget_finished and any(s.step >= min(map(len, out.tokens)) - 1 for s in out.selections) for case, out in drawn
        ],
        "tie at the k-th score": [out.score_gap == 0 for _, out in drawn],
        "the mask changes": [len({str(s.kept) for s in out.selections if s.sparse_steps}) > 2 for _, out in drawn],
    }
    assert {name: sum(held) for name, held in corners.items() if sum(held) < 3} == {}


# Regrow against the reference


@pytest.mark.parametrize("seed", SEEDS_64)
def test_regrow_equals_the_reference_in_float64(seed: int) -> None:
    case = draw(seed, torch.float64)
    check_equal(case, expected(case), run(case, method_of(case.settings)))


@pytest.mark.parametrize("family", FAMILIES)
def test_regrow_fed_the_prompt_in_chunks_equals_the_reference(family: str) -> None:
    case = Case(family, torch.float64, PROMPTS, settings(init_steps=0))
    check_equal(case, expected(case), run(case, method_of(case.settings), prefill_chunk_size=4))


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
def test_regrow_in_bfloat16_keeps_the_schedule(seed: int, record_property: Callable[[str, object], None]) -> None:
    """Rounding of bfloat16 may flip any token, and the rest of the run with it: differences are counted, the bookkeeping is asserted."""
    case = draw(seed, torch.bfloat16)
    outcome, actual, s = expected(case), run(case, method_of(case.settings)), case.settings
    tokens = sum(want != got for pair in zip(outcome.columns, actual.columns, strict=False) for want, got in zip(*pair, strict=True))
    masks = sum(want != got for want, got in zip(masks_of(outcome), actual.masks, strict=False))
    moment = first_difference(outcome, actual)
    near = math.inf if moment is None else closest_call(outcome, moment)
    record_property("tokens differing", tokens)
    record_property("masks differing", masks)
    chosen = len(case.prompts) * len(outcome.columns)
    print(f"tokens differing {tokens} of {chosen}, masks {masks} of {len(masks_of(outcome))}, closest call before {near:.1e}")

    layers, neurons = case.model.config.num_hidden_layers, case.model.config.intermediate_size
    k, steps = naive.kept_count(s.sparsity, neurons), len(actual.columns) - 1
    sparse = sum(naive.is_sparse(s, step) for step in range(1, steps + 1))
    assert (actual.report.decode_steps, actual.report.sparse_steps) == (steps, sparse)
    assert actual.report.neurons_computed == layers * (k * sparse + neurons * (steps - sparse))
    assert [step for step, _ in actual.masks] == [t for t in range(steps) if naive.ends_dense_stage(s, t) and naive.is_sparse(s, t + 1)]
    for _, kept in actual.masks:
        assert len(kept) == layers
        assert all(len(row) == k and row == sorted(set(row)) for row in kept)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rows", [1, 4])
def test_regrow_griffin_equals_the_reference(family: str, rows: int) -> None:
    case = Case(family, torch.float64, PROMPTS[-rows:], settings(sparsity="0.7", init_steps=0, explore_steps=0))
    eos = draw_eos(random.Random(rows), expected(case).tokens)
    case = replace(case, settings=replace(case.settings, eos=eos))
    check_equal(case, expected(case), run(case, regrow.Griffin(sparsity="0.7")))
