"""Settings in a model's generation_config.json apply as in transformers, or one sentence says why not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from command import lines, run
from regrow.cli import decode_prompts
from regrow.models import encode, load
from regrow.sampling import Sampling

PROMPTS = ["A add 12 34", "A rev hello"]
NEW = 12
Save = Callable[..., Path]


@pytest.fixture
def saved(tiny: Path, tmp_path: Path) -> Save:
    """Returns a function that saves the tiny model with further generation settings."""

    def save(**settings: Any) -> Path:
        model = tmp_path / "model"
        shutil.copytree(tiny, model)
        file = model / "generation_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))
        return model

    return save


def _run(model: Path, *options: object, prompts: list[str] = PROMPTS) -> Any:
    given = [part for prompt in prompts for part in ("-p", prompt)]
    return run("generate", model, "-m", "dense", *given, "--max-new-tokens", NEW, *options)


def _decoded(model: Path, *options: object) -> tuple[list[list[int]], dict[str, Any]]:
    """Returns the tokens of each prompt, and `sampling` of the summary."""
    result = _run(model, "--json", *options)
    assert result.exit_code == 0, result.output
    *samples, summary = lines(result.stdout)
    return [sample["tokens"] for sample in sorted(samples, key=lambda sample: sample["index"])], summary[
        "sampling"
    ]


def _stock(model: Path, **arguments: Any) -> list[list[int]]:
    """Returns what transformers alone generates, each row up to and with its first EOS."""
    loaded = load(model)
    ids, mask = encode(loaded, PROMPTS)
    out = loaded.model.generate(ids, attention_mask=mask, max_new_tokens=NEW, **arguments)
    ends = loaded.model.generation_config.eos_token_id
    rows = getattr(out, "sequences", out)[:, ids.shape[1] :].tolist()
    return [row[: next((i + 1 for i, token in enumerate(row) if token in ends), len(row))] for row in rows]


@pytest.mark.parametrize(
    "settings",
    [
        {"repetition_penalty": 1.3},
        {"no_repeat_ngram_size": 2},
        {"suppress_tokens": [5, 6, 7, 20, 21]},
        {"forced_eos_token_id": 3},
        {"min_new_tokens": 9},
        {"bad_words_ids": [[5], [20]]},
        {"guidance_scale": 1.5},
        {"prefill_chunk_size": 2},
    ],
)
def test_greedy_heeds_them_as_transformers_does_and_says_so(saved: Save, settings: dict[str, Any]) -> None:
    model = saved(**settings)
    tokens, said = _decoded(model)
    assert tokens == _stock(model, do_sample=False)
    assert said == {"temperature": 0.0, "from_generation_config": settings}


@pytest.mark.parametrize(
    "settings",
    [
        {"min_p": 0.3},
        {"top_k": 2},
        {"typical_p": 0.5},
        {"top_h": 0.4},
        {"epsilon_cutoff": 0.1},
        {"eta_cutoff": 0.2},
        {"top_p": 0.3},
    ],
)
def test_sampling_heeds_them_as_transformers_does_and_greedy_does_not(
    tiny: Path, saved: Save, settings: dict[str, Any]
) -> None:
    model = saved(**settings, temperature=0.5)
    tokens, said = _decoded(model, "--temperature", 1.4, "--seed", 3)
    torch.manual_seed(Sampling(1.4, seed=3).batch_seed(0))
    assert tokens == _stock(
        model, do_sample=True, temperature=1.4, **({} if "top_k" in settings else {"top_k": 0})
    )
    assert said["temperature"] == 1.4
    assert said["from_generation_config"] == settings
    greedy, said = _decoded(model)
    assert greedy == _decoded(tiny)[0]
    assert said == {"temperature": 0.0}


def test_a_top_p_given_replaces_the_models(saved: Save) -> None:
    _, said = _decoded(saved(top_p=0.3), "--temperature", 1.4, "--seed", 3, "--top-p", 0.8)
    assert said == {"temperature": 1.4, "top_p": 0.8, "seed": 3}


@pytest.mark.parametrize(
    "settings",
    [
        {"use_cache": False},
        {"output_hidden_states": True, "output_attentions": True},
        {"return_dict_in_generate": True, "output_scores": True, "output_logits": True},
        {"max_length": 7},
        {"cache_implementation": "static"},
        {"do_sample": True, "num_return_sequences": 2},
        {"do_sample": True},
    ],
)
def test_what_decides_no_token_is_set_aside_and_named(
    tiny: Path, saved: Save, settings: dict[str, Any]
) -> None:
    model = saved(**settings)
    tokens, said = _decoded(model)
    assert tokens == _decoded(tiny)[0]
    assert set(said["set_aside"]) == set(settings)
    shown = " ".join(_run(model).stdout.split())
    assert "ignored from the model's generation config: " in shown
    assert all(name in shown for name in settings)


def test_the_screen_names_what_holds(saved: Save) -> None:
    shown = _run(saved(repetition_penalty=1.1, top_k=3)).stdout
    assert "greedy; from the model's generation config: repetition_penalty=1.1\n" in shown.replace(
        "  ", ""
    ).replace(" \n", "\n")


@pytest.mark.parametrize(
    "settings",
    [
        {"num_beams": 4},
        {"prompt_lookup_num_tokens": 3},
        {"dola_layers": "high"},
        {"penalty_alpha": 0.6, "top_k": 4},
        {"prefill_chunk_size": 0},
        {"repetition_penalty": -1.0},
        {"no_repeat_ngram_size": "x"},
        {"top_k": "x"},
    ],
)
def test_what_cannot_be_followed_is_refused_by_the_name_of_the_file(
    saved: Save, settings: dict[str, Any]
) -> None:
    result = _run(saved(**settings), "--json")
    assert result.exit_code in (1, 2)
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("regrow: error: ")
    assert "generation_config.json" in result.stderr
    assert next(iter(settings)) in result.stderr


@pytest.mark.parametrize("settings", [{"stop_strings": ["="]}, {"token_healing": True}])
def test_the_tokenizer_is_given_where_a_setting_needs_it(
    saved: Save, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []

    def generate(*_: Any, **arguments: Any) -> None:
        given.append(arguments["tokenizer"])
        raise KeyboardInterrupt

    monkeypatch.setattr(decode_prompts, "generate", generate)
    assert _run(saved(**settings)).exit_code == 130
    assert given[0].convert_tokens_to_ids("=") is not None
