"""A tiny random model in the format of the bundled one, for tests of the command."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM
from transformers.utils import logging

RECIPE = Path(__file__).parents[2] / "recipes" / "tiny_reasoner"
CONTEXT = 512
ENDS = [3, 8, 41, 51, 62]  # several EOS ids, so that the random samples end, and at different steps


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a model of two layers and 64 neurons each, float32, with the recipe's tokenizer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(RECIPE)
        from tokenizer import build

        tokenizer = build(CONTEXT)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        initializer_range=0.2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Qwen2ForCausalLM(config)
    model.generation_config.eos_token_id = ENDS
    directory = tmp_path_factory.mktemp("models") / "tiny"
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(autouse=True, scope="session")
def _quiet() -> Iterator[None]:
    """Silences transformers, which the command can only do before transformers is imported.

    Tests that start a process see the command do it.
    """
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    yield
    logging.set_verbosity(level)
    if bars:
        logging.enable_progress_bar()
