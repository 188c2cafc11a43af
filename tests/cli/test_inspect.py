"""`regrow inspect` on a tiny random model: its files, its table, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from command import lines, run

PROMPTS = ("--prompt", "rev abc", "--prompt", "par 0110", "--prompt", "1+2")
SETTINGS = ("--init-steps", 2, "--period", 5, "--max-new-tokens", 16)


def test_the_directory_holds_the_pictures_and_the_numbers(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "pictures"
    result = run("inspect", tiny, *PROMPTS, *SETTINGS, "--out", out)
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in out.iterdir()) == [
        "activations-layer-0.png",
        "activations-layer-1.png",
        "energy.svg",
        "inspect.json",
        "refreshes.svg",
        "samples.svg",
    ]
    values = json.loads((out / "inspect.json").read_text())
    assert values["method"]["name"] == "bap"
    assert values["selections"][0] == 2
    assert values["kept"] == [32, 32]
    assert values["chance"] == 0.5
    assert values["overlap"]["samples"] == [1, 2, 3]
    text = " ".join(result.stdout.split())
    assert "name=bap, sparsity=0.5, init_steps=2" in text
    assert "3 samples" in text
    assert "kept of 64" in text
    assert "Two random masks of this size share 50 % of their neurons." in text
    assert "inspect.json" in text

    again = run("inspect", tiny, *PROMPTS, *SETTINGS, "--out", out)
    assert again.exit_code == 2
    assert "already holds an inspection; choose another --out, or delete it" in again.stderr


def test_json_prints_the_numbers_of_the_file_and_nothing_else(tiny: Path, tmp_path: Path) -> None:
    result = run(
        "inspect", tiny, *PROMPTS, *SETTINGS, "--layer", "1", "--temperature", 1, "--seed", 3, "--json",
        "--out", tmp_path,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    (values,) = lines(result.stdout)
    assert values == json.loads((tmp_path / "inspect.json").read_text())
    assert values["drawn"] == [1]
    assert values["sampling"]["seed"] == 3
    assert not (tmp_path / "activations-layer-0.png").exists()


def test_a_batch_of_one_has_no_picture_of_the_samples_and_says_so(tiny: Path, tmp_path: Path) -> None:
    result = run("inspect", tiny, *PROMPTS[:2], *SETTINGS, "--method", "bap", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert "the batch has one sample; give several prompts." in result.stdout
    assert not (tmp_path / "samples.svg").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--method", "teal"), "keeps no mask of neurons from step to step"),
        (("--layer", "7"), "layer 7 cannot be drawn"),
        (("--layer", "first"), "--layer takes layer numbers such as 0,1,5, not 'first'"),
        (("--max-new-tokens", "20"), "allow more than 65 new tokens"),
    ],
)
def test_a_refusal_is_one_sentence_and_leaves_no_file(
    tiny: Path, tmp_path: Path, options: tuple[str, ...], sentence: str
) -> None:
    result = run("inspect", tiny, *PROMPTS, *options, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert result.stderr.startswith("regrow: error: ")
    assert not (tmp_path / "out").exists()


def test_a_file_in_place_of_the_directory_is_refused_before_the_run(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    result = run("inspect", tiny, *PROMPTS, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "no file can be made in" in result.stderr
