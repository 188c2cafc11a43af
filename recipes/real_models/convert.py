"""Converts a GGUF file into a folder in Hugging Face format with bfloat16 weights."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GgufConfig, PreTrainedModel

_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def convert(gguf: Path, folder: Path, digits_apart: bool) -> None:
    """Writes weights, configuration, generation configuration, tokenizer and chat template to `folder`.

    Head and embedding are tied in the original models. A GGUF file may hold them apart, with different
    roundings. Both then get the values of the head, which are stored with more bits.
    """
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),  # else weights stay packed where a kernel is at hand
    )
    _save_weights(model, folder / "model.safetensors")
    _save_settings(model, folder)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    if digits_apart:  # GGUF names this rule, and transformers leaves it out
        byte_level = tokenizer.backend_tokenizer.pre_tokenizer
        digits = pre_tokenizers.Digits(individual_digits=True)
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    tokenizer.init_kwargs["local_files_only"] = False  # else HF_HUB_OFFLINE would change the saved file
    tokenizer.save_pretrained(folder)


def _save_weights(model: PreTrainedModel, file: Path) -> None:
    tensors = model.state_dict()
    tensors[_EMBEDDING] = tensors.pop(_HEAD)
    packed = [name for name, tensor in tensors.items() if tensor.dtype is not torch.bfloat16]
    if packed:
        raise TypeError(f"{packed[0]} has the dtype {tensors[packed[0]].dtype}, not bfloat16")
    save_file(tensors, file, metadata={"format": "pt"})


def _save_settings(model: PreTrainedModel, folder: Path) -> None:
    """Saves both configurations. The generation configuration has the ids that the GGUF file names."""
    config = model.config
    config.architectures = [type(model).__name__]
    config.tie_word_embeddings = True
    if hasattr(config, "_model_name_or_path"):  # the title of the GGUF file
        del config._model_name_or_path
    config.save_pretrained(folder)
    ids = {name: getattr(config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    GenerationConfig(**ids).save_pretrained(folder)
