"""Checks that our decode loop supports everything that transformers prepared for a call of `generate`."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any, Final

from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel
from transformers.generation.configuration_utils import GenerationMode

from regrow.errors import UsageError
from regrow.hosts.arguments import known

MODEL_INPUTS: Final = {"attention_mask", "position_ids", "past_key_values", "use_cache", "logits_to_keep"}


def with_tokenizer(
    extract: Callable[..., dict[str, Any]], loop: Any, given: dict[str, Any], *others: Any
) -> dict[str, Any]:
    """Returns the result of transformers' `_extract_generation_mode_kwargs`, plus the tokenizer.

    Stop strings and token healing need the tokenizer, but transformers removes it from `given` before it
    looks up which arguments a custom decode loop takes. The tokenizer is added only if `loop` has a parameter
    for it.
    """
    tokenizer = (
        given.get("tokenizer") if callable(loop) and "tokenizer" in signature(loop).parameters else None
    )
    found = extract(loop, given, *others)
    return found if tokenizer is None else found | {"tokenizer": tokenizer}


def supported(
    model: PreTrainedModel, config: GenerationConfig, ids: Tensor, inputs: dict[str, Any], *, prunes: bool
) -> None:
    """Raises UsageError if our loop does not support the settings, the prompts `ids` [B, P] or the `inputs`.

    `prunes`: the method selects by the activations of a sample, so the cache must be empty.
    """
    _settings(config)
    if not len(ids):
        raise UsageError("the batch is empty; give at least one prompt")
    unknown = [name for name, value in inputs.items() if name not in MODEL_INPUTS and value is not None]
    if unknown:
        raise UsageError(
            f"model input {unknown[0]!r} is not supported while a model is pruned; "
            "pass input_ids and attention_mask only"
        )
    _cache(inputs, prunes=prunes)
    _columns(config, ids, inputs)
    _mask(inputs)
    known(ids, inputs.get("attention_mask"), model)


def _settings(config: GenerationConfig) -> None:
    mode = config.get_generation_mode()
    if mode not in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE):
        raise UsageError(
            f"generation mode {mode.value!r} is not supported; use greedy decoding or sampling (num_beams=1)"
        )
    if config.prefill_chunk_size is not None and config.prefill_chunk_size < 1:
        raise UsageError(f"prefill_chunk_size must be at least 1, not {config.prefill_chunk_size}")
    if config.output_attentions or config.output_hidden_states:
        raise UsageError(
            "output_attentions and output_hidden_states are not supported while a model is pruned; "
            "leave them out"
        )


def _cache(inputs: dict[str, Any], *, prunes: bool) -> None:
    cache = inputs.get("past_key_values")
    if not inputs.get("use_cache", True) or cache is None:
        raise UsageError("Regrow needs the KV cache; leave use_cache on")
    if prunes and cache.get_seq_length() > 0:
        raise UsageError(
            "past_key_values already holds tokens whose activations were not seen; "
            "pass the whole prompt and no cache"
        )


def _columns(config: GenerationConfig, ids: Tensor, inputs: dict[str, Any]) -> None:
    mask, columns, held = (
        inputs.get("attention_mask"),
        ids.shape[1],
        int(inputs["past_key_values"].get_seq_length()),
    )
    # transformers drops a mask of ones, but keeps its width in `_mask_length`.
    width = getattr(config, "_mask_length", columns) if mask is None else mask.shape[1]
    if width not in (columns, held + columns):
        raise UsageError(
            f"attention_mask has {width} columns and input_ids {columns}; give every token its column"
        )


def _mask(inputs: dict[str, Any]) -> None:
    mask = inputs.get("attention_mask")
    if mask is None:
        return
    empty = (mask.sum(dim=1) == 0).nonzero().flatten().tolist()
    if empty:
        raise UsageError(f"prompt {empty[0]} is nothing but padding; give every sample at least one token")
    if not bool(mask[:, -1].all()):
        raise UsageError("the prompts are padded on the right; set the tokenizer's padding_side to 'left'")
