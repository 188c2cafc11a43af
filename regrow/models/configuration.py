"""Reads and checks config.json before anything heavy is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, PreTrainedConfig

from regrow.errors import RegrowError, UsageError
from regrow.models.blame import blaming
from regrow.models.json_object import REMEDY, read_object

_QUANTISED = ("quantization_config", "compression_config")
_QUANTISED_BESIDE = ("quantize_config.json", "quant_config.json")  # files of older GPTQ and AWQ tools
_ALWAYS_THERE = (None, "eager", "sdpa", "flex_attention")  # attention that needs no further package
_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size")
_LENGTHS = ("max_position_embeddings", "sliding_window")


def read_configuration(directory: Path, name: str, trust_remote_code: bool) -> PreTrainedConfig:
    """Returns the configuration of a causal language model that Regrow can load.

    Raises UsageError for any other kind of model, RegrowError for a damaged file.
    """
    raw = read_object(directory / "config.json")
    _refuse_quantised(directory, raw, name)
    own_code = "auto_map" in raw
    if not (own_code and trust_remote_code):
        _refuse_unknown(raw, name, own_code)
    with blaming(f"config.json of {name} is damaged", REMEDY):
        config: PreTrainedConfig = AutoConfig.from_pretrained(directory, trust_remote_code=trust_remote_code)
        if not own_code and type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
            raise _not_causal(name, f"the type {config.model_type!r}")
        _check_sizes(config, name)
    wanted = _attention(config)
    if wanted and "/" in wanted and not trust_remote_code:
        where = (
            "which is code from the hub; "
            "take that out of config.json, or use --trust-remote-code if you trust it"
        )
        raise UsageError(f"{name} asks for the attention implementation {wanted!r}, {where}")
    return config


def stored_dtype(config: PreTrainedConfig, name: str) -> torch.dtype:
    """Returns the dtype in which the weights are stored, float32 if the configuration does not say.

    Raises RegrowError if the configuration names anything but a floating-point dtype.
    """
    dtype = getattr(config, "dtype", None) or torch.float32
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        kind = str(dtype).removeprefix("torch.")
        raise RegrowError(
            f"config.json of {name} says dtype {kind}, which is not a floating-point dtype; "
            "choose one with --dtype"
        )
    return dtype


def remedy(config: PreTrainedConfig) -> str:
    """Returns advice for a model that fails to load, most often because of a value in its configuration."""
    wanted = _attention(config)
    if wanted not in _ALWAYS_THERE:
        return f"install what the attention implementation {wanted!r} needs, or take that out of config.json"
    text = config.get_text_config(decoder=True)
    pad, size = getattr(text, "pad_token_id", None), getattr(text, "vocab_size", None)
    if isinstance(pad, int) and isinstance(size, int) and pad >= size:
        return f"correct config.json, whose pad_token_id {pad} lies beyond its vocab_size {size}"
    return "see whether config.json belongs to the weights"


def _attention(config: PreTrainedConfig) -> str | None:
    """Returns the attention implementation that the configuration names; None lets transformers choose."""
    wanted: str | None = config._attn_implementation
    return wanted


def setting_of(config: PreTrainedConfig, value: object) -> str | None:
    """Returns the name of the setting with this value (`outer.inner` if it is nested), or None.

    Some errors of transformers name only the value that they do not know.
    """
    settings = config.to_dict()
    nested = [(key, part) for key, part in settings.items() if isinstance(part, dict)]
    flat = [
        *settings.items(),
        *((f"{key}.{inner}", found) for key, part in nested for inner, found in part.items()),
    ]
    return next((key for key, found in flat if found == value), None)


def _refuse_quantised(directory: Path, raw: dict[str, Any], name: str) -> None:
    parts = [raw, *(value for value in raw.values() if isinstance(value, dict))]
    found = [part[key] for part in parts for key in _QUANTISED if part.get(key) is not None]
    if found or any((directory / beside).exists() for beside in _QUANTISED_BESIDE):
        method = found[0].get("quant_method") if found and isinstance(found[0], dict) else None
        raise quantised(name, f" ({method})" if isinstance(method, str) else "")


def quantised(name: str, how: str) -> UsageError:
    """Returns the error for a quantised model; `how` follows the word "quantised" in the message."""
    return UsageError(
        f"{name} is quantised{how}, and Regrow prunes full-precision weights; load the model it was made from"
    )


def _refuse_unknown(raw: dict[str, Any], name: str, own_code: bool) -> None:
    kind = raw.get("model_type")
    if not isinstance(kind, str):
        raise RegrowError(f"config.json of {name} names no model_type; {REMEDY}")
    if kind not in CONFIG_MAPPING:
        remedy = (
            "if you trust the code it brings, use --trust-remote-code"
            if own_code
            else "use a model of a type it knows"
        )
        raise UsageError(
            f"{name} is a model of type {kind!r}, "
            f"which transformers {transformers.__version__} does not know; {remedy}"
        )
    classes = raw.get("architectures")
    if isinstance(classes, list) and classes and all(map(_other_task, classes)):
        raise _not_causal(name, f"a {classes[0]}")


def _other_task(architecture: object) -> bool:
    """Returns True if transformers has a class of that name, made for another task than text generation."""
    if not isinstance(architecture, str) or "For" not in architecture:
        return False
    return hasattr(transformers, architecture) and architecture not in _causal_classes()


def _causal_classes() -> set[str]:
    names = transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
    return {name for entry in names for name in ((entry,) if isinstance(entry, str) else entry)}


def _not_causal(name: str, kind: str) -> UsageError:
    return UsageError(
        f"{name} is not a causal language model: its config.json describes {kind}; "
        "use a model that generates text"
    )


def _check_sizes(config: PreTrainedConfig, name: str) -> None:
    text = config.get_text_config(decoder=True)
    sizes = {key: size for key in (*_SIZES, *_LENGTHS) if isinstance(size := getattr(text, key, None), int)}
    for key, size in sizes.items():
        if size < 1:
            raise RegrowError(f"config.json of {name} says {key} {size}, which must be at least 1; {REMEDY}")
    heads, groups = sizes.get("num_attention_heads", 1), sizes.get("num_key_value_heads", 1)
    if heads % groups:
        raise RegrowError(
            f"config.json of {name} says {heads} num_attention_heads, "
            f"not a multiple of its {groups} num_key_value_heads; {REMEDY}"
        )
