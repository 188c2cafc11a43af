from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from regrow.bundled.problems import heldout
from regrow.calibration.text import sequences
from regrow.errors import UsageError
from regrow.models import Loaded, load


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return load()


def test_a_text_is_cut_into_sequences(loaded: Loaded, tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("add 123 456\n" * 50)
    text = sequences(loaded, path, 3, 100)
    whole = [*loaded.tokenizer(path.read_text())["input_ids"], loaded.tokenizer.eos_token_id]
    assert [ids.tolist() for ids in text.sequences] == [whole[:100], whole[100:200], whole[200:300]]
    assert (text.tokens, text.source) == (300, str(path))


def test_documents_are_joined_by_the_end_of_text(loaded: Loaded, tmp_path: Path) -> None:
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps({"text": document}) + "\n\n" for document in ("abc", "de", "fghij")))
    (ids,) = sequences(loaded, path, 1, 12).sequences
    encode, eos = loaded.tokenizer, loaded.tokenizer.eos_token_id
    assert (
        ids.tolist()
        == [part for document in ("abc", "de", "fghij") for part in [*encode(document)["input_ids"], eos]][
            :12
        ]
    )


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('{"text": "a\\ud800b"}', "line 1 holds half a character"),
        ("[" * 100_000, "line 1 is not valid JSON"),
        ('{"text": 3}', 'line 1 holds no "text"'),
    ],
)
def test_a_line_that_is_no_text_is_named(loaded: Loaded, tmp_path: Path, line: str, sentence: str) -> None:
    path = tmp_path / "text.jsonl"
    path.write_text(line)
    with pytest.raises(UsageError, match=sentence):
        sequences(loaded, path, 1, 12)


def test_the_context_is_the_limit(loaded: Loaded, tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("add 123 456\n" * 300)
    assert [len(ids) for ids in sequences(loaded, path, 2, 2048).sequences] == [1024, 1024]
    with pytest.raises(UsageError, match="gives 3 sequences of 1024 tokens, and 9 are asked for"):
        sequences(loaded, path, 9, 2048)


def test_the_bundled_model_brings_its_own(loaded: Loaded) -> None:
    text = sequences(loaded, None, 10, 2048)
    assert 10 * 1024 <= text.tokens < 11 * 1024
    assert all(
        torch.equal(a, b)
        for a, b in zip(text.sequences, sequences(loaded, None, 10, 2048).sequences, strict=True)
    )
    shown = [loaded.tokenizer.decode(ids) for ids in text.sequences]
    assert not {exercise.prompt for exercise in heldout(500)} & {
        one.split("<|assistant|>")[0].removeprefix("<|user|>") for one in shown
    }
    assert all(ids[-1] == loaded.tokenizer.eos_token_id for ids in text.sequences)


def test_other_models_need_the_hub_or_a_text(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> str:
        raise OSError("no network\nmore")

    monkeypatch.setattr("regrow.calibration.text.hf_hub_download", unreachable)
    other = Loaded(loaded.model, loaded.tokenizer, "org/model", loaded.directory)
    with pytest.raises(
        UsageError,
        match=r"C4 cannot be downloaded from the hub \(no network\); "
        "give a text of your own with --text FILE",
    ):
        sequences(other, None, 1, 16)
