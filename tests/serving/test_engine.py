"""Masks and tokens of a continuously batched engine, against vLLM alone and against a naive reference."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from engines import MODEL, Drive
from naive_rules import Settings
from naive_serving import replay

PRUNED = {"method": "bap", "sparsity": 0.5, "init_steps": 6, "period": 8, "explore_steps": 2}
RULES = Settings("0.5", init_steps=6, explore_steps=2, period=8, max_new_tokens=99, pad=0)
CHUNKED = {"max_num_batched_tokens": 16, "max_num_seqs": 8}
COMPILED = {"enforce_eager": False}
OBSERVED = {"sparsity": 0.5, "init_steps": 9999}  # all passes run through Regrow, and none is sparse
FEW_BLOCKS = {"num_gpu_blocks_override": 8, "block_size": 32, "max_model_len": 128}

# An engine starts in a quarter of a minute and compiles in one, and in several times that on a busy machine.
pytestmark = pytest.mark.timeout(900)


def arrivals(seed: int = 1) -> list[dict[str, Any]]:
    """Eight requests of mixed lengths: two at once, into running batches, and after the batch was empty."""
    drawn = random.Random(seed)
    return [
        {
            "step": step,
            "name": f"r{number}",
            "prompt": [drawn.randrange(5, 60) for _ in range(drawn.randrange(1, 40))],
            "new": drawn.randrange(20, 50),
        }
        for number, step in enumerate([0, 0, 5, 13, 13, 14, 40, 130])
    ]


@pytest.mark.parametrize("how", [{}, CHUNKED, COMPILED], ids=["eager", "chunked", "compiled"])
def test_exact_passes_give_the_tokens_of_vllm(drive: Drive, how: dict[str, Any]) -> None:
    alone = drive(arrivals(), **how)
    for exact in [OBSERVED] if how == COMPILED else [{"sparsity": 0}, OBSERVED]:  # compiling takes long
        assert drive(arrivals(), exact, **how)["tokens"] == alone["tokens"]


@pytest.mark.parametrize(
    ("how", "join"),
    [
        ({}, "refresh"),
        ({}, "dense"),
        (CHUNKED, "refresh"),
        (CHUNKED, "dense"),
        (FEW_BLOCKS, "refresh"),
        (FEW_BLOCKS, "dense"),
        (COMPILED, "refresh"),
    ],
)
def test_masks_and_tokens_are_those_of_a_naive_server(drive: Drive, how: dict[str, Any], join: str) -> None:
    served = drive(arrivals(), {**PRUNED, "join": join}, aborts={"r1": 12}, **how)
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    server, tokens = replay(model, served["passes"], RULES, join)
    assert server.gap > 1e-6, "a mask of this schedule depends on rounding; draw other prompts"
    assert served["masks"] == [[[step, kept] for step, kept in server.masks]]
    assert len(server.masks) > 5
    assert served["tokens"] == {name: tokens[name][: len(found)] for name, found in served["tokens"].items()}
    report = served["report"]
    assert (report["decode_steps"], report["sparse_steps"]) == (server.clock, server.sparse_steps)
    assert 0 < report["sparse_steps"] < report["decode_steps"]
    assert served["running"] == 0
    left = sum(len(one["left"]) for one in served["passes"])
    assert (left > len(arrivals())) == (how is FEW_BLOCKS)


def test_a_schedule_replays_exactly(drive: Drive) -> None:
    first, second = (drive(arrivals(2), {**PRUNED, "join": "dense"}, again) for again in (0, 1))
    for part in ("tokens", "passes", "masks"):
        assert first[part] == second[part]


def test_more_requests_than_slots_wait_for_one(drive: Drive) -> None:
    """Nor do two prompts that are the same share keys and values, even if vLLM is told to cache prefixes."""
    prompt = random.Random(3).choices(range(5, 60), k=70)
    twins = [{"step": step, "name": f"twin{step}", "prompt": prompt, "new": 5} for step in (0, 20)]
    asked = [*arrivals(), *twins]
    served = drive(asked, PRUNED, max_num_seqs=2, block_size=32, enable_prefix_caching=True)
    assert max(len(one["scheduled"]) for one in served["passes"]) == 2
    assert served["running"] == 0
    assert {name: len(tokens) for name, tokens in served["tokens"].items()} == {
        one["name"]: one["new"] for one in asked
    }
    for name in ("twin0", "twin20"):
        computed = sum(one["scheduled"].get(name, 0) for one in served["passes"])
        assert computed == len(prompt) + 5 - 1  # the last token is not fed
