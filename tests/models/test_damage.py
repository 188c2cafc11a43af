"""Model files damaged at random: the model works, or one sentence says why not. No other exception."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig

import regrow
from model_files import one_sentence
from regrow.errors import RegrowError
from regrow.models import encode, load

OBJECTS = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")
FILES = (*OBJECTS, "chat_template.jinja")
# Small numbers only, because a model too large for the memory would be refused by the machine.
ODD = st.sampled_from(
    [
        None,
        True,
        False,
        "",
        "abc",
        "3",
        "\ud800",
        -1,
        0,
        1,
        5,
        100,
        3.5,
        1e-9,
        float("nan"),
        [],
        [1],
        ["a"],
        [[1]],
        [None],
        {},
        {"a": 1},
    ]
)
# `generate` needs a tokenizer argument for these two settings.
WITH_TOKENIZER = {"stop_strings", "token_healing"}
ADDED: dict[str, list[str]] = {
    "config.json": [
        "head_dim",
        "rope_scaling",
        "sliding_window",
        "is_encoder_decoder",
        "torch_dtype",
        "text_config",
        "id2label",
        "to_dict",
    ],
    "generation_config.json": sorted(
        {name for name in vars(GenerationConfig()) if name[0] != "_"} - WITH_TOKENIZER
    ),
    "tokenizer.json": ["truncation", "padding", "normalizer", "post_processor"],
    "tokenizer_config.json": [
        "chat_template",
        "model_max_length",
        "extra_special_tokens",
        "added_tokens_decoder",
        "add_bos_token",
    ],
}
Place = tuple[Any, ...]  # keys and indices, from the outermost


def _places(value: object, above: Place = ()) -> Iterator[Place]:
    """Yield the place of everything inside a JSON value."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in inside:
        yield (*above, key)
        yield from _places(inner, (*above, key))


def _changed(draw: st.DataObject, name: str, text: str) -> str:
    value = json.loads(text)
    place = draw.draw(
        st.one_of(st.sampled_from(list(_places(value))), st.sampled_from([(key,) for key in ADDED[name]])),
        "place",
    )
    around = value
    for key in place[:-1]:
        around = around[key]
    if draw.draw(st.booleans(), "dropped") and (isinstance(around, list) or place[-1] in around):
        around.pop(place[-1])
    else:
        around[place[-1]] = draw.draw(ODD, "value")
    return json.dumps(value)


def _cut(draw: st.DataObject, text: str) -> str:
    """Return the text without its end, or with one character changed."""
    place = draw.draw(st.integers(0, len(text) - 1), "place")
    return text[:place] + draw.draw(
        st.sampled_from(["", *(sign + text[place + 1 :] for sign in "{}%'\"x0")]), "rest"
    )


def _damage(draw: st.DataObject, directory: Path, name: str) -> None:
    path = directory / name
    text = path.read_text()
    how = draw.draw(
        st.sampled_from(
            ["changed", "changed", "changed", "cut", "swapped"] if name in OBJECTS else ["cut", "swapped"]
        ),
        "how",
    )
    if how == "swapped":
        shutil.copy(directory / draw.draw(st.sampled_from(FILES), "other"), directory / "other")
        (directory / "other").replace(path)
    else:
        path.write_text(_changed(draw, name, text) if how == "changed" else _cut(draw, text))


def _link_weights(source: str, target: str) -> None:
    os.link(source, target) if source.endswith(".safetensors") else shutil.copy(source, target)


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=8, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(draw=st.data())
def test_a_damaged_file_works_or_is_refused_in_one_sentence(
    directory: Path, name: str, draw: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory(dir=directory.parent) as parent:
        copy = Path(shutil.copytree(directory, Path(parent) / "copy", copy_function=_link_weights))
        _damage(draw, copy, name)
        try:
            loaded = load(copy)
            json.dumps(loaded.generation_settings, allow_nan=False)
            assert loaded.tokenizer_sha256
            assert loaded.chat_template_sha256 or not loaded.tokenizer.chat_template
            done = regrow.generate(loaded.model, *encode(loaded, ["ab", "abc"]), max_new_tokens=3)
            assert len(done.tokens) == 2
        except RegrowError as error:
            one_sentence(error)
