"""An engine whose FFNs are split over two workers, against vLLM and against a naive reference.

The workers are processes of their own. The passes that the engine has scheduled are therefore taken from an
engine with one worker: all requests have a fixed number of new tokens, so that the schedule depends on the
arrivals alone.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from engines import MODEL, Drive
from naive_rules import Settings
from naive_serving import replay

PRUNED = {"method": "bap", "sparsity": 0.5, "init_steps": 4, "period": 6, "explore_steps": 2}
RULES = Settings("0.5", init_steps=4, explore_steps=2, period=6, max_new_tokens=99, pad=0)
SPLIT = {"tensor_parallel_size": 2}

# Workers wait for each other by spinning, which takes minutes where processes outnumber cores.
pytestmark = pytest.mark.timeout(900)


def arrivals() -> list[dict[str, Any]]:
    """Four requests of mixed lengths: two at once, and two into running batches."""
    drawn = random.Random(1)
    return [
        {
            "step": step,
            "name": f"r{number}",
            "prompt": [drawn.randrange(5, 60) for _ in range(drawn.randrange(1, 40))],
            "new": drawn.randrange(15, 30),
        }
        for number, step in enumerate([0, 0, 5, 13])
    ]


def test_exact_passes_give_the_tokens_of_vllm(drive: Drive) -> None:
    alone = drive(arrivals(), **SPLIT)
    observed = {"sparsity": 0.5, "init_steps": 9999}  # all passes run through Regrow, and none is sparse
    assert drive(arrivals(), observed, **SPLIT)["tokens"] == alone["tokens"]


def test_masks_and_tokens_are_those_of_a_naive_server_that_splits_neurons(drive: Drive) -> None:
    join = "dense"
    settings = {**PRUNED, "join": join}
    passes = drive(arrivals(), settings)["passes"]
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    server, tokens = replay(model, passes, RULES, join, shards=2)
    assert server.gap > 1e-6, "a mask of this schedule depends on rounding; draw other prompts"
    assert len(server.masks) > 3
    assert 0 < server.sparse_steps < server.clock
    served, half = drive(arrivals(), settings, **SPLIT), model.config.intermediate_size // 2
    for worker, masks in enumerate(served["masks"]):
        assert masks == [
            [step, [[j - worker * half for j in kept if j // half == worker] for kept in layers]]
            for step, layers in server.masks
        ]
    assert len(served["masks"]) == 2
    assert served["tokens"] == tokens
    # A mask that is chosen from all neurons gives others.
    assert tokens != replay(model, passes, RULES, join)[1]
