"""Models whose weights are laid out for oneDNN, for every matmul that can use these layouts."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers
from transformers import PreTrainedModel

import regrow
from batches import arguments, new_tokens, prompts
from families import SIZES
from regrow.decoding import choose_network
from regrow.kernels import MatmulChoice
from regrow.kernels.laid_out.choose_matmul import STORED
from regrow.kernels.laid_out.weight import MOST, can_lay_out
from regrow.method.base import Method
from regrow.pruning import neurons

BATCH = prompts(3, seed=4)
LAID_OUT = MatmulChoice("laid out", "laid out", 4, 0, {})
OURS = MatmulChoice("compiled", "compiled", 4, MOST, {})
NATIVE_ALONE = MatmulChoice("native", "laid out", 4, 0, {})
BAP = regrow.BatchwiseAdaptive(sparsity=0.5, init_steps=3, explore_steps=1, period=4)
METHODS: list[Method] = [
    regrow.Dense(),
    BAP,
    replace(BAP, weigh="down"),
    regrow.Griffin(sparsity=0.5),
    regrow.Magnitude(sparsity=0.5),
    regrow.EveryToken(sparsity=0.5),
]


def measured(monkeypatch: pytest.MonkeyPatch, matmul: MatmulChoice) -> None:
    for module in (choose_network, neurons):
        monkeypatch.setattr(
            module, "choose_matmul", lambda dtype, *_: matmul if can_lay_out(dtype) else STORED
        )


def build(
    family: str = "Qwen2", *, tied: bool = False, dtype: torch.dtype = torch.float32, **more: int
) -> PreTrainedModel:
    """Return a model large enough for its retained neurons to fit the blocks of oneDNN's layout."""
    sizes: dict[str, Any] = SIZES | {
        "hidden_size": 64,
        "intermediate_size": 192,
        "head_dim": 32,
        "tie_word_embeddings": tied,
    }
    sizes |= more | ({"sliding_window": None} if family == "Mistral" else {})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(transformers, f"{family}ForCausalLM")(
            getattr(transformers, f"{family}Config")(**sizes)
        )
    return model.to(dtype).eval()


def tokens(model: PreTrainedModel, batch: list[list[int]] = BATCH) -> list[list[int]]:
    return new_tokens(batch, model.generate(**arguments(batch, max_new_tokens=40)))


def copied(model: PreTrainedModel, method: Method) -> AbstractContextManager[object]:
    return regrow.prune(model, method, lay_out=True)


def moved(model: PreTrainedModel, method: Method) -> AbstractContextManager[object]:
    return regrow.Engine(model, method, owns_model=True)


WAYS = [copied, moved]
Way = Callable[[PreTrainedModel, Method], AbstractContextManager[object]]


def is_laid_out(model: PreTrainedModel) -> bool:
    return "forward" in vars(model.model.layers[0].self_attn.o_proj)
