"""`regrow generate --lossless` on a tiny model in float32, where its tokens are exactly the dense ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from command import lines, run, words
from regrow.cli.bar import Bar
from regrow.cli.decode_prompts import Decoding
from regrow.decoding.drafts.names import AUTO, DRAFTS, name_of
from regrow.decoding.fused import WIDEST
from regrow.kernels import multiplies_codes

PROMPTS = ["A add 12 34", "A rev hello", "A sort 52016", "A par 010011\nB add 1 2", "A bin 10110"]
NEW = 48
MASKED = ("--method", "bap", "--init-steps", 4)


def _arguments(model: Path, *options: object, prompts: list[str] = PROMPTS) -> list[object]:
    texts = [part for prompt in prompts for part in ("--prompt", prompt)]
    return ["generate", model, *texts, "--max-new-tokens", NEW, *options]


def _json(model: Path, *options: object, **settings: Any) -> tuple[list[list[int]], dict[str, Any]]:
    """Returns the tokens in the order of the prompts, and the summary."""
    result = run(*_arguments(model, "--json", *options, **settings))
    assert result.exit_code == 0, result.output
    *samples, summary = lines(result.stdout)
    return [sample["tokens"] for sample in sorted(samples, key=lambda sample: sample["index"])], summary


def _without_a_method() -> str:
    """Returns what auto chooses on this machine if no method prunes."""
    return "four-bit" if multiplies_codes(torch.device("cpu"), torch.float32) else "ngram"


@pytest.fixture(scope="module")
def dense(tiny: Path) -> list[list[int]]:
    return _json(tiny, "--method", "dense")[0]


@pytest.mark.parametrize("window", [None, 1, 5, WIDEST - 1])
@pytest.mark.parametrize("draft", [AUTO, *DRAFTS])
def test_tokens_are_the_dense_ones_with_every_draft(
    tiny: Path, dense: list[list[int]], draft: str, window: int | None
) -> None:
    options = [*(MASKED if draft.startswith("mask") else ()), *(("--window", window) if window else ())]
    tokens, summary = _json(tiny, "--lossless", "--draft", draft, *options)
    assert tokens == dense
    assert summary["lossless"] == {"draft": draft, "window": window}
    assert summary["draft"] == (_without_a_method() if draft == AUTO else draft)
    assert summary["drafted"] > 0
    assert 0 <= summary["drafts_kept"] <= summary["drafted"]
    assert summary["sparse_steps"] == 0
    assert "note" not in summary


@pytest.mark.parametrize(
    ("options", "method", "draft"),
    [
        ([], "bap", None),
        (["--lossless"], "dense", AUTO),
        (["--lossless", "--temperature", 0, "--skip-layers", 1], "dense", AUTO),
        (["--lossless", "--sparsity", 0.3], "bap", "mask"),
        (["--lossless", "--init-steps", 9], "bap", "mask"),
        (["--lossless", "--keep-finished"], "bap", "mask"),
        (["--lossless", "-P", "period=9"], "bap", "mask"),
        (["--lossless", "-m", "bap"], "bap", "mask"),
        (["--lossless", "-m", "griffin"], "griffin", "mask"),
        (["--lossless", "-m", "dense"], "dense", AUTO),
        (["--lossless", "-m", "bap", "-s", 0], "bap", AUTO),
        (["--lossless", "-m", "griffin", "--draft", "four-bit"], "griffin", "four-bit"),
    ],
)
def test_a_method_drafts_if_one_is_asked_for(
    tiny: Path, dense: list[list[int]], options: list[object], method: str, draft: str | None
) -> None:
    tokens, summary = _json(tiny, *options)
    assert summary["method"]["name"] == method
    assert summary.get("draft") == (_without_a_method() if draft == AUTO else draft)
    assert ("lossless" in summary) == ("--lossless" in options)
    assert draft is None or tokens == dense


def test_drafts_are_counted_over_all_batches(tiny: Path) -> None:
    asked = ("--lossless", "--draft", "four-bit", "--window", 3)
    _, together = _json(tiny, *asked, "--batch-size", 2)
    apart = [_json(tiny, *asked, prompts=PROMPTS[start : start + 2])[1] for start in (0, 2, 4)]
    for name in ("drafted", "drafts_kept", "sample_passes", "decode_steps", "tokens"):
        assert together[name] == sum(summary[name] for summary in apart)
    kept, drafted = together["drafts_kept"], together["drafted"]
    tokens = (together["tokens"] - len(PROMPTS)) / together["sample_passes"]
    assert 1 < tokens < 4
    shown = run(*_arguments(tiny, *asked, "--batch-size", 2)).stdout
    assert "drafts by four-bit; windows of 3" in shown
    assert (
        f"{kept} of {drafted} ({100 * kept / drafted:.1f} %); a dense pass gave a sample {tokens:.1f}"
        in shown
    )


def test_the_bar_shows_that_weights_are_rounded_once(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[object] = []
    begin, show = Bar.begin, Bar.show
    monkeypatch.setattr(
        Bar, "begin", lambda bar, text, total, *more: (shown.append(text), begin(bar, text, total, *more))
    )
    monkeypatch.setattr(Bar, "show", lambda bar, done, note: (shown.append(note), show(bar, done, note)))
    _json(tiny, "--lossless", "--draft", "four-bit", "--batch-size", 2)
    assert shown[:5] == [
        "decoding", "rounding the weights to 4 bits", "1 of 2 layers", "2 of 2 layers", "decoding"
    ]  # fmt: skip
    assert all(str(note).startswith("batch ") for note in shown[5:])


LOSSLESS = ("--lossless", "--draft", "ngram", "--window", 2)


def _file(tiny: Path, path: Path, *options: object) -> Any:
    return run(*_arguments(tiny, "--method", "dense", "--batch-size", 2, "--json", "-o", path, *options))


def _torn(path: Path, batches: int = 1) -> None:
    """Leaves the settings and so many batches of two samples."""
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[: 1 + 2 * batches]))


@pytest.mark.parametrize("options", [(), LOSSLESS, ("--lossless",)])
def test_a_file_is_continued_by_a_run_with_the_same_settings(
    tiny: Path, tmp_path: Path, options: tuple[object, ...]
) -> None:
    """Files of runs that are not lossless are as they were before there was such an option."""
    path = tmp_path / "out.jsonl"
    assert _file(tiny, path, *options).exit_code == 0
    whole = path.read_bytes()
    settings = json.loads(whole.splitlines()[0])
    window = 2 if "--window" in options else None
    asked = {"draft": "ngram" if window else "auto", "window": window}
    assert settings.get("lossless", "absent") == (asked if options else "absent")
    assert "draft" not in settings
    _torn(path)
    again = _file(tiny, path, *options)
    assert again.exit_code == 0, again.output
    assert lines(again.stdout)[-1]["kept"] == 2
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ((), LOSSLESS, 'lossless is null there and {"draft": "ngram", "window": 2} here'),
        (LOSSLESS, (), 'lossless is {"draft": "ngram", "window": 2} there and null here'),
        (
            LOSSLESS,
            ("--lossless", "--draft", "ngram"),
            '"window": 2} there and {"draft": "ngram", "window": null}',
        ),
        (LOSSLESS, ("--lossless", "--window", 2), '"ngram", "window": 2} there and {"draft": "auto"'),
    ],
)
def test_a_file_is_not_continued_by_another_way_of_decoding(
    tiny: Path, tmp_path: Path, first: tuple[object, ...], second: tuple[object, ...], said: str
) -> None:
    path = tmp_path / "out.jsonl"
    assert _file(tiny, path, *first).exit_code == 0
    _torn(path)
    before = path.read_bytes()
    refused = _file(tiny, path, *second)
    assert refused.exit_code == 2
    assert "was made with other settings (lossless is " in refused.stderr
    assert said in refused.stderr
    assert path.read_bytes() == before


def test_a_file_that_is_complete_names_no_draft(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is decoded, so nothing has drafted."""
    path = tmp_path / "out.jsonl"
    assert _file(tiny, path, *LOSSLESS).exit_code == 0
    monkeypatch.setattr(Decoding, "_run", lambda *_: pytest.fail("nothing is left to decode"))
    again = _file(tiny, path, *LOSSLESS)
    assert again.exit_code == 0, again.output
    assert lines(again.stdout)[-1]["kept"] == len(PROMPTS)
    assert lines(again.stdout)[-1]["lossless"] == {"draft": "ngram", "window": 2}
    assert "draft" not in lines(again.stdout)[-1]


def test_the_help_lists_the_drafts_by_their_names() -> None:
    text = words(run("generate", "--help").stdout)
    assert f"what drafts tokens: {', '.join([AUTO, *DRAFTS])}." in text
    assert [name_of(draft) for draft in (None, *DRAFTS.values())] == [AUTO, *DRAFTS]
    assert f"from 1 to {WIDEST - 1}." in text
    assert "bap, or dense with --lossless and no other option of a method" in text
