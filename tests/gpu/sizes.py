"""Device and sizes of the checks: sizes of real models on a GPU, small ones in Triton's interpreter."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from regrow.method.base import Method
from regrow.method.batchwise_adaptive import BatchwiseAdaptive
from regrow.method.dense import Dense
from regrow.method.griffin import Griffin

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")


@dataclass(frozen=True)
class Sizes:
    """Sizes, models and methods of the checks."""

    width: int  # of an FFN
    neurons: int
    tokens: Sequence[int]  # numbers of tokens whose scores are added
    rounded: Sequence[int]  # numbers of tokens that go through weights of 4 and 8 bits
    launches: int  # of a kernel that uses its workspace again
    # Rows, tokens per row, query heads, key-value heads, cache capacity.
    attention: Sequence[tuple[int, int, int, int, int]]
    halves: Sequence[torch.dtype]  # 16-bit dtypes
    kinds: Sequence[str]  # architectures of the tiny models, all of which have a fused forward pass
    model: dict[str, int]  # sizes of the tiny models
    methods: Sequence[Method]
    batches: Sequence[int]  # rows of each batch
    new: int  # new tokens per row

    @property
    def keep(self) -> int:
        return self.neurons // 2


ON_A_GPU = Sizes(
    width=3584,
    neurons=18944,
    tokens=(1, 4, 64, 1000),
    rounded=(1, 8, 9, 16, 33, 64, 100),
    launches=20,
    attention=((1, 1, 28, 4, 4096), (4, 5, 28, 4, 1024), (16, 1, 32, 8, 2048), (3, 17, 32, 8, 512)),
    halves=(torch.bfloat16, torch.float16),
    kinds=("llama", "qwen2", "qwen3"),
    model={
        "hidden_size": 256,
        "intermediate_size": 640,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
    },
    methods=(Dense(), Griffin(), BatchwiseAdaptive(init_steps=5)),
    batches=(5, 5, 3, 5),
    new=200,
)
# Sizes that the interpreter finishes in about a second. Its bfloat16 matmuls are wrong, so only float16 is
# checked.
SMALL = Sizes(
    width=48,
    neurons=80,
    tokens=(1, 4, 64),
    rounded=(1, 9, 33),
    launches=2,
    attention=((2, 1, 6, 2, 90), (1, 5, 4, 4, 70)),
    halves=(torch.float16,),
    kinds=("qwen3",),
    model={
        "hidden_size": 32,
        "intermediate_size": 640,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    methods=(Dense(),),
    batches=(2, 1),
    new=4,
)
SIZES = SMALL if INTERPRETED else ON_A_GPU
