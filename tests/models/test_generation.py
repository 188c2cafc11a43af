"""Values in generation_config.json. A wrong type would surface as a TypeError in the middle of decoding."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from model_files import edit_json, one_sentence
from regrow.errors import RegrowError
from regrow.models import load

WRONG: list[tuple[str, object]] = [
    ("temperature", "hot"),
    ("temperature", float("nan")),
    ("top_k", "5"),
    ("top_k", 2.5),
    ("top_p", [0.9]),
    ("eos_token_id", "3"),
    ("eos_token_id", ["3"]),
    ("eos_token_id", True),
    ("eos_token_id", 10**30),
    ("pad_token_id", "0"),
    ("pad_token_id", [0]),
    ("bos_token_id", {}),
    ("max_length", "20"),
    ("max_new_tokens", -2),
    ("do_sample", "yes"),
    ("use_cache", 3),
    ("num_beams", "2"),
    ("num_return_sequences", "a"),
    ("repetition_penalty", "x"),
    ("repetition_penalty", 0),
    ("repetition_penalty", 2),
    ("no_repeat_ngram_size", "a"),
    ("suppress_tokens", 5),
    ("begin_suppress_tokens", "x"),
    ("forced_eos_token_id", "a"),
    ("forced_eos_token_id", []),
    ("forced_eos_token_id", -1),
    ("a_setting_of_tomorrow", [float("inf")]),
    ("bad_words_ids", [["a"]]),
    ("bad_words_ids", [[]]),
    ("sequence_bias", {"a": 1}),
    ("stop_strings", 3),
    ("stop_strings", [3]),
    ("exponential_decay_length_penalty", [1, "a"]),
    ("watermarking_config", 3),
    ("watermarking_config", {"nonsense": 1}),
    ("guidance_scale", "x"),
    ("max_time", "x"),
    ("min_new_tokens", "a"),
    ("prefill_chunk_size", "a"),
    ("cache_implementation", "nonsense"),
    ("early_stopping", "x"),
    ("compile_config", {}),
]


@pytest.mark.parametrize(("key", "value"), WRONG)
def test_values_of_the_wrong_type_are_named(copy: Path, key: str, value: object) -> None:
    edit_json(copy / "generation_config.json", **{key: value})
    with pytest.raises(RegrowError, match=r"^generation_config\.json of .* (says|cannot be used)") as refusal:
        load(copy)
    text = one_sentence(refusal.value)
    assert key in text or "nonsense" in text
    assert text.endswith("correct it, or take it out")


RIGHT: list[tuple[str, object]] = [
    ("temperature", 1),
    ("temperature", None),
    ("top_k", 0),
    ("eos_token_id", [2, 3]),
    ("eos_token_id", []),
    ("pad_token_id", -1),
    ("repetition_penalty", 1.1),
    ("repetition_penalty", 1),
    ("suppress_tokens", []),
    ("bad_words_ids", [[5], [6, 7]]),
    ("sequence_bias", [[[5], -1.0]]),
    ("stop_strings", "."),
    ("forced_eos_token_id", [2]),
    ("exponential_decay_length_penalty", [5, 1.1]),
]


@pytest.mark.parametrize(("key", "value"), RIGHT)
def test_values_that_transformers_takes_are_taken(copy: Path, key: str, value: object) -> None:
    edit_json(copy / "generation_config.json", **{key: value})
    assert getattr(load(copy).model.generation_config, key) == value


def test_without_the_file_the_configuration_is_looked_at(copy: Path) -> None:
    (copy / "generation_config.json").unlink()
    edit_json(copy / "config.json", temperature="hot")
    with pytest.raises(
        RegrowError, match=r"config\.json of .* says temperature 'hot', which must be a number"
    ):
        load(copy)


def test_all_refused_types_are_json(copy: Path) -> None:
    """A table of values that JSON cannot hold would test nothing."""
    assert json.loads(json.dumps(RIGHT)) == [list(pair) for pair in RIGHT]
