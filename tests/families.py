"""Tiny random models of real families, built from transformers' own classes without a download.

A name always gives the same weights. FAMILIES can be pruned. REFUSED cannot: these models have no gated FFN,
compute something else under its names, have experts, or are more than a decoder. All weights are drawn from a
range so wide that activations leave the linear range and next tokens differ.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

LAYERS, WIDTH, NEURONS, VOCABULARY = 2, 32, 64, 96

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": NEURONS,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MAMBA: dict[str, Any] = {
    "mamba_d_ssm": 32,
    "mamba_n_heads": 4,
    "mamba_d_head": 8,
    "mamba_d_state": 8,
    "mamba_chunk_size": 8,
}
VISION: dict[str, Any] = {
    "depth": 1,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_heads": 4,
    "out_hidden_size": WIDTH,
}


def _causal(name: str, **settings: Any) -> Callable[[], PreTrainedModel]:
    """Return a function that builds transformers' `<name>ForCausalLM`."""

    def make() -> PreTrainedModel:
        config = getattr(
            transformers, f"{name.removesuffix('Text')}{'Text' if name.endswith('Text') else ''}Config"
        )(**SIZES | settings)
        return getattr(transformers, f"{name.removesuffix('Text')}ForCausalLM")(config)

    return make


def _qwen2_5_vl() -> PreTrainedModel:
    config = transformers.Qwen2_5_VLConfig(text_config=SIZES, vision_config=VISION)
    return transformers.Qwen2_5_VLForConditionalGeneration(config)


def _t5gemma() -> PreTrainedModel:
    part = transformers.T5GemmaModuleConfig(**SIZES, query_pre_attn_scalar=8, sliding_window=16)
    return transformers.T5GemmaForConditionalGeneration(
        transformers.T5GemmaConfig(encoder=part, decoder=part)
    )


FAMILIES: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": _causal("Llama"),
    "qwen2": _causal("Qwen2"),
    "qwen3": _causal("Qwen3"),
    "mistral": _causal("Mistral", sliding_window=None),
    "gemma2": _causal("Gemma2", query_pre_attn_scalar=8, sliding_window=16),
    "gemma3": _causal("Gemma3Text", query_pre_attn_scalar=8, sliding_window=16),
    "phi3": _causal("Phi3"),
    "olmo2": _causal("Olmo2"),
    "smollm3": _causal("SmolLM3"),
    "glm4": _causal("Glm4"),
    "cohere2": _causal("Cohere2", sliding_window=16, logit_scale=1.0),
}

REFUSED: dict[str, Callable[[], PreTrainedModel]] = {
    "bitnet": _causal("BitNet"),
    "falcon_h1": _causal("FalconH1", mlp_multipliers=[0.9, 0.4], **MAMBA),
    "starcoder2": _causal("Starcoder2"),
    "gpt_neox": _causal("GPTNeoX"),
    "mixtral": _causal("Mixtral", num_local_experts=4, num_experts_per_tok=2),
    "qwen2_5_vl": _qwen2_5_vl,
    "t5gemma": _t5gemma,
}

# Structures that no family above has. The finder must know them too.
STRUCTURES: dict[str, Callable[[], PreTrainedModel]] = {
    "w1_w3_w2": _causal("Lfm2", block_auto_adjust_ff_dim=False, layer_types=["conv", "full_attention"]),
    "biases": _causal("Llama", mlp_bias=True),
    "squared": _causal("Llama", hidden_act="relu2"),
}


def build(name: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Return a model by its name in FAMILIES, REFUSED or STRUCTURES, in eval mode on the CPU.

    The global random state is not changed.
    """
    make = (FAMILIES | REFUSED | STRUCTURES)[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make()
        for parameter in model.parameters():
            # Biases start at zero. A forgotten bias would not show.
            if parameter.dim() == 1 and not parameter.any():
                torch.nn.init.normal_(parameter, std=0.2)
    return model.to(dtype).eval()
