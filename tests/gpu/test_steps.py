"""Whole decode steps through the kernels.

They are captured as CUDA graphs, run inside a model's own forward, and do not synchronise.
"""

from __future__ import annotations

from typing import Any, final
from unittest import SkipTest
from unittest.mock import patch

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
)

from gpu.errors import expect_alike
from gpu.sizes import DEVICE, INTERPRETED, SIZES
from regrow.core import Pass
from regrow.decoding.fused import FusedNetwork
from regrow.decoding.same_logits import attends_alike
from regrow.hosts.engine import Engine
from regrow.method.batchwise_adaptive import BatchwiseAdaptive

PROMPT, PADDED = 40, (0, 7, 19, 30, 39)  # prompt length, and the padding of each row
UNSYNCHRONISED = (90, 140)  # marks between which nothing synchronises


def tiny(kind: str) -> PreTrainedModel:
    tokens = {"vocab_size": 512, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    config = AutoConfig.for_model(
        kind, head_dim=32, initializer_range=0.1, max_position_embeddings=1024, **SIZES.model, **tokens
    )
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32).to(DEVICE)
    model.eval()
    model.generation_config.eos_token_id = None
    return model


def ragged(rows: int = len(PADDED)) -> dict[str, Any]:
    ids = torch.randint(3, 500, (rows, PROMPT), device=DEVICE)
    mask = (torch.arange(PROMPT, device=DEVICE) >= torch.tensor(PADDED[:rows], device=DEVICE)[:, None]).long()
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "max_new_tokens": SIZES.new,
        "do_sample": False,
        "pad_token_id": 0,
    }


@final
class Dictated(LogitsProcessor):
    """Chooses tokens that do not depend on the logits [B, V], and stores the logits."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.seen.append(scores.clone())
        token = (7 * input_ids[:, -1:] + len(self.seen)) % scores.shape[1]
        return torch.zeros_like(scores).scatter_(1, token, 1.0)


def logits(engine: Engine, prompt: dict[str, Any]) -> Tensor:
    """Returns the logits of every step, [N, B, V]."""
    dictated = Dictated()
    engine.generate(**prompt, logits_processor=LogitsProcessorList([dictated]))
    return torch.stack(dictated.seen)


def plain(network: FusedNetwork, planned: Pass, ids: Tensor, *, every: bool = False, **_: Any) -> Tensor:
    return network._plain(network._decoder, ids[:, -planned.width :], planned.position, ids.shape[1], every)


def step_errors(ours: Tensor, theirs: Tensor) -> Tensor:
    """Returns the relative error of every step, [N]."""
    return torch.linalg.vector_norm(ours - theirs, dim=(1, 2)) / torch.linalg.vector_norm(theirs, dim=(1, 2))


def test_recorded_steps_give_the_logits_of_plain_ones() -> None:
    """Compares the float32 logits of ragged batches along the same tokens.

    On a GPU, the second batch replays graphs that the first captured. The third has another number of rows,
    and the fourth the first number again.
    """
    found = []
    for kind in SIZES.kinds:
        model = tiny(kind)
        for method in SIZES.methods:
            prompts = [ragged(rows) for rows in SIZES.batches]
            with patch.object(FusedNetwork, "forward", plain), Engine(model, method) as engine:
                wanted = [logits(engine, prompt) for prompt in prompts]
            with Engine(model, method) as engine:
                errors = [
                    step_errors(logits(engine, prompt), theirs)
                    for prompt, theirs in zip(prompts, wanted, strict=True)
                ]
            found.append((f"{kind}, {method.name}", torch.cat(errors)))
    expect_alike(found)


def test_decode_attention_inside_a_models_own_forward() -> None:
    """The model is of an architecture without a fused forward pass."""
    with torch.inference_mode():
        assert attends_alike(tiny("olmo2")), "other logits of olmo2 after a ragged prompt"


def test_no_stop_of_the_host_in_a_period() -> None:
    """After all graphs are captured, torch raises an error at any synchronisation, for two periods."""
    if INTERPRETED:
        raise SkipTest("needs CUDA")
    model, marks = tiny("qwen2"), 0

    def mark(_: str) -> None:
        nonlocal marks
        marks += 1
        if marks in UNSYNCHRONISED:
            torch.cuda.set_sync_debug_mode("error" if marks == UNSYNCHRONISED[0] else "default")

    try:
        with Engine(model, BatchwiseAdaptive(init_steps=5)):
            model.generate(**ragged(), mark=mark)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert marks > UNSYNCHRONISED[1], f"only {marks} steps and refreshes were run"
    print(f"{UNSYNCHRONISED[1] - UNSYNCHRONISED[0]} steps and refreshes without a synchronisation")
