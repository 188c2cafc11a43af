"""Checks the values in generation_config.json, which transformers trusts until generation fails on them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from regrow.errors import RegrowError
from regrow.models.blame import blaming
from regrow.models.json_object import read_object

_INTEGERS = (
    *(
        "max_length",
        "max_new_tokens",
        "min_length",
        "min_new_tokens",
        "num_beams",
        "num_return_sequences",
        "top_k",
    ),
    *("no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "prefill_chunk_size", "max_cache_len"),
    *("bos_token_id", "pad_token_id", "forced_bos_token_id", "num_beam_groups"),
    *("num_assistant_tokens", "prompt_lookup_num_tokens", "max_matching_ngram_size", "assistant_early_exit"),
)
_NUMBERS = (
    *(
        "temperature",
        "top_p",
        "min_p",
        "top_h",
        "typical_p",
        "epsilon_cutoff",
        "eta_cutoff",
        "max_time",
        "guidance_scale",
    ),
    *("length_penalty", "diversity_penalty", "penalty_alpha"),
)
_FACTORS = ("repetition_penalty", "encoder_repetition_penalty")
_FLAGS = (
    *(
        "do_sample",
        "use_cache",
        "renormalize_logits",
        "remove_invalid_values",
        "token_healing",
        "disable_compile",
        "low_memory",
    ),
    *(
        "output_attentions",
        "output_hidden_states",
        "output_scores",
        "output_logits",
        "return_dict_in_generate",
        "is_assistant",
    ),
)
_FILE = "generation_config.json"
_REMEDY = "correct it, or take it out"
_ONE_OR_MORE = ("eos_token_id", "decoder_start_token_id")
_LISTS = ("suppress_tokens", "begin_suppress_tokens")


def check_generation(directory: Path, name: str) -> None:
    """Raises RegrowError if the file is not a JSON object or holds a value that cannot be used.

    Without the file, transformers reads the same settings from config.json, so that file is checked instead.
    """
    path, settings = directory / _FILE, dict[str, Any]()
    if not path.exists():
        path, settings = (
            directory / "config.json",
            {"config_file_name": "config.json", "_from_model_config": True},
        )
    for key, value in read_object(path).items():
        fits, kind = _KINDS.get(key, (_finite, "finite") if path.name == _FILE else (_anything, ""))
        if value is not None and not fits(value):
            raise RegrowError(
                f"{path.name} of {name} says {key} {value!r:.60}, which must be {kind}; {_REMEDY}"
            )
    with blaming(f"{path.name} of {name} cannot be used", _REMEDY):
        GenerationConfig.from_pretrained(directory, **settings)


def _anything(_: object) -> bool:
    return True


def _finite(value: object) -> bool:
    """Returns True if the value contains no NaN or infinity, which JSON records cannot hold."""
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True


def _integer(value: object) -> bool:
    return type(value) is int and abs(value) < 2**63  # token ids are int64


def _number(value: object) -> bool:
    return _integer(value) or (type(value) is float and math.isfinite(value))


def _factor(value: object) -> bool:
    return (type(value) is float and 0 < value < math.inf) or value == 1


def _flag(value: object) -> bool:
    return isinstance(value, bool)


def _integers(value: object) -> bool:
    return isinstance(value, list) and all(map(_integer, value))


def _integer_or_more(value: object) -> bool:
    return _integer(value) or _integers(value)


def _forced(value: object) -> bool:
    ids: list[Any] = value if isinstance(value, list) else [value]
    return len(ids) > 0 and all(_integer(token) and token >= 0 for token in ids)


def _words(value: object) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(_integers(word) and word for word in value)


def _biases(value: object) -> bool:
    pairs = value if isinstance(value, list) and value else [None]
    return all(
        isinstance(pair, list) and len(pair) == 2 and _integers(pair[0]) and _number(pair[1])
        for pair in pairs
    )


def _texts(value: object) -> bool:
    return isinstance(value, str) or (
        isinstance(value, list) and all(isinstance(text, str) for text in value)
    )


def _start_and_factor(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and _integer(value[0]) and _number(value[1])


def _settings(value: object) -> bool:
    return isinstance(value, dict)


_KINDS: dict[str, tuple[Callable[[object], bool], str]] = {
    **dict.fromkeys(_INTEGERS, (_integer, "an integer")),
    **dict.fromkeys(_NUMBERS, (_number, "a number")),
    **dict.fromkeys(_FACTORS, (_factor, "a positive number with a decimal point")),
    **dict.fromkeys(_FLAGS, (_flag, "true or false")),
    **dict.fromkeys(_ONE_OR_MORE, (_integer_or_more, "a token id or a list of them")),
    **dict.fromkeys(_LISTS, (_integers, "a list of token ids")),
    "forced_eos_token_id": (_forced, "a token id or a list of them"),
    "bad_words_ids": (_words, "a list of lists of token ids"),
    "sequence_bias": (_biases, "a list of pairs, token ids and a number"),
    "stop_strings": (_texts, "a text or a list of them"),
    "exponential_decay_length_penalty": (_start_and_factor, "a list of an integer and a number"),
    "watermarking_config": (_settings, "an object"),
}
