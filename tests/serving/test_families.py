"""Every family that is served: exact passes equal those of vLLM, and sparse ones compute the kept neurons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from engines import Drive
from naive_rules import Settings
from naive_serving import replay

SIZES = {
    "vocab_size": 90, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "max_position_embeddings": 256,
    "initializer_range": 0.2, "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False,
}  # fmt: skip
CONFIGS = {"llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}
RULES = Settings("0.5", init_steps=3, explore_steps=2, period=5, max_new_tokens=99, pad=0)
PRUNED = {"method": "bap", "sparsity": 0.5, "init_steps": 3, "period": 5, "explore_steps": 2}

# An engine starts in a quarter of a minute and compiles in one, and in several times that on a busy machine.
pytestmark = pytest.mark.timeout(900)


@pytest.mark.parametrize("family", CONFIGS)
def test_a_family_is_served(family: str, drive: Drive, tmp_path: Path) -> None:
    config: PreTrainedConfig = CONFIGS[family](**SIZES, sliding_window=None)
    model = build_model(config)
    model.save_pretrained(tmp_path)
    arrivals = [
        {"step": step, "name": f"r{step}", "prompt": list(range(5 + step, 12 + 2 * step)), "new": 24}
        for step in (0, 1, 7)
    ]
    engine: dict[str, Any] = {"model": str(tmp_path), "skip_tokenizer_init": True}
    alone = drive(arrivals, **engine)
    assert drive(arrivals, {"sparsity": 0.5, "init_steps": 9999}, **engine)["tokens"] == alone["tokens"]
    served = drive(arrivals, PRUNED, **engine)
    server, tokens = replay(model, served["passes"], RULES, "dense")
    assert served["tokens"] == tokens != alone["tokens"]
    assert server.sparse_steps == served["report"]["sparse_steps"] > 0


def build_model(config: PreTrainedConfig) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
