"""Tiny random models, and the cases on which regrow is compared with the naive reference."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

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
# Seeds of the cases in float64, float32 and bfloat16.
SEEDS_64, SEEDS_32, SEEDS_16 = range(40), range(100, 115), range(200, 205)


def shape(layers: int, width: int, neurons: int, heads: int = 2, key_heads: int = 1) -> dict[str, Any]:
    """Return the settings that the configurations of all families share."""
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
    # Its activation is GeLU.
    "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**shape(3, 16, 48), head_dim=8, sliding_window=16)),
    # Three of four neurons are always zero, so that scores tie exactly.
    "dead": lambda: Qwen2ForCausalLM(Qwen2Config(**shape(2, 16, 56))),
}


@functools.cache
def model_of(family: str, dtype: torch.dtype) -> Any:
    """Return a random model, the same at every call.

    Its weights are drawn wide enough that greedy text does not repeat itself at once.
    """
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
        explore -= 1  # T_p = 0 stays possible, but becomes rarer
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
    """Return one to three tokens that first occur late in a row, so that rows end at different steps."""
    firsts = [[token for i, token in enumerate(row) if token not in row[:i]][-3:] for row in tokens]
    return frozenset(rng.choice(rng.choice(firsts)) for _ in range(rng.randint(1, 3)))


@functools.cache
def draw(seed: int, dtype: torch.dtype) -> Case:
    """Return a random case. Its EOS ids are tokens that the model generates with the same settings."""
    rng = random.Random(seed)
    # Exact ties ("dead") occur only in float64. In float32 they would excuse any difference.
    family = FAMILIES[seed % (5 if dtype == torch.float64 else 4)]
    prompts = tuple(
        tuple(rng.choices(range(VOCABULARY), k=rng.randint(1, 12))) for _ in range(rng.choice((1, 4, 7)))
    )
    weighing = ("none", "none", "down")[seed % 3]
    case = Case(family, dtype, prompts, replace(draw_settings(rng), weigh=weighing))
    if rng.random() < 0.15:
        return case
    eos = draw_eos(rng, naive.generate(case.model, prompts, case.settings).tokens)
    if rng.random() < 0.5:  # an EOS id inside a prompt counts like any token
        prompts = (prompts[0] + (rng.choice(sorted(eos)),) + prompts[0][:2], *prompts[1:])
    pad = rng.choice(sorted(eos)) if rng.random() < 0.5 else case.settings.pad
    return Case(family, dtype, prompts, replace(case.settings, eos=eos, pad=pad))


@functools.cache
def expected(case: Case) -> naive.Outcome:
    """Return the outcome of the reference."""
    return naive.generate(case.model, case.prompts, case.settings)


def stock_arguments(case: Case) -> dict[str, Any]:
    """Return the arguments of `generate` for a case."""
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
    """Return the regrow method with these settings."""
    return regrow.BatchwiseAdaptive(
        sparsity=settings.sparsity,
        init_steps=settings.init_steps,
        explore_steps=settings.explore_steps,
        period=settings.period,
        aggregate=settings.aggregate,
        memory=settings.memory,
        decay=settings.decay,
        forget_finished=settings.forget_finished,
        weigh=settings.weigh,
    )


@dataclass(frozen=True)
class Actual:
    """The outcome of regrow."""

    columns: list[list[int]]  # [N][B]
    masks: list[tuple[int, list[list[int]]]]  # (step, per layer indices)
    report: Any


def run(case: Case, method: Any, **more: Any) -> Actual:
    """Run a case through regrow. `more` is passed to `generate`."""
    with regrow.prune(case.model, method, record_masks=True) as session:
        columns = new_columns(case, case.model.generate(**stock_arguments(case), **more))
        return Actual(columns, [(step, kept.tolist()) for step, kept in session.masks], session.report())


def masks_of(outcome: naive.Outcome) -> list[tuple[int, list[list[int]]]]:
    """Return the reference's selections in the form of `session.masks`.

    Selections that no sparse step used are left out. The reference selects at the end of every dense stage.
    Regrow does not select if decoding ends there, or if T_p = 0.
    """
    return [(selection.step, selection.kept) for selection in outcome.selections if selection.sparse_steps]


def settings(**changes: Any) -> naive.Settings:
    """Return plain settings with these changes."""
    plain = naive.Settings(sparsity="0.5", init_steps=3, explore_steps=2, period=6, max_new_tokens=24, pad=0)
    return replace(plain, **changes)


PROMPTS = ((7, 3, 3, 21, 9, 30), (5,), (12, 39, 8), (1, 17, 4, 4, 22, 8, 33, 11, 2))
