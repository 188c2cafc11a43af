"""Models of given shapes with random weights. Speed depends on sizes and dtypes, not on the values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, initialization

from regrow.errors import require_one_of


@final
@dataclass(frozen=True)
class Shape:
    """The sizes of a model."""

    name: str
    family: str  # transformers' model type
    layers: int
    width: int  # hidden size
    neurons: int  # intermediate size of an FFN
    heads: int
    kv_heads: int
    head_width: int
    vocabulary: int
    tied: bool  # the head shares its weight with the embedding

    def build(self, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
        """Builds a model in eval mode, without an EOS. Its weights are uniform with variance 1 / fan-in."""
        config = AutoConfig.for_model(
            self.family,
            vocab_size=self.vocabulary,
            hidden_size=self.width,
            intermediate_size=self.neurons,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            head_dim=self.head_width,
            tie_word_embeddings=self.tied,
            max_position_embeddings=32768,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
        )
        generator = torch.Generator(device).manual_seed(0)
        with initialization.no_init_weights(), device:
            model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype)  # type: ignore[no-untyped-call]
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                limit = (3 / parameter.shape[1]) ** 0.5
                parameter.data.uniform_(-limit, limit, generator=generator)
            else:
                parameter.data.fill_(0 if name.endswith("bias") else 1)  # 0 for biases, 1 for norms
        model.eval()  # type: ignore[no-untyped-call]
        return model


_ALL = (
    Shape("qwen-0.5b", "qwen2", 24, 896, 4864, 14, 2, 64, 151936, True),  # Qwen2.5-0.5B
    Shape("qwen-1.5b", "qwen2", 28, 1536, 8960, 12, 2, 128, 151936, True),  # Qwen2.5-1.5B
    Shape("qwen-7b", "qwen2", 28, 3584, 18944, 28, 4, 128, 152064, False),  # DeepSeek-R1-Distill-Qwen-7B
    Shape("llama-8b", "llama", 32, 4096, 14336, 32, 8, 128, 128256, False),  # DeepSeek-R1-Distill-Llama-8B
)
SHAPES: Final = {shape.name: shape for shape in _ALL}


def shape(name: str) -> Shape:
    """Returns the shape called `name`. Raises UsageError for an unknown name."""
    require_one_of(SHAPES, shape=name)
    return SHAPES[name]
