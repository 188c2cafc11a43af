"""`regrow compare` with a few of its entries."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from command import run
from regrow.bundled.problems import exercise
from regrow.evaluation import grid, scale
from regrow.evaluation.tasks import load

LABELS = ("dense", "TEAL", "Wanda 2:4", "BAP, T_init 0")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.jsonl"
    path.write_text(
        "".join(json.dumps({"text": exercise(f"text-{number}").solution}) + "\n" for number in range(60))
    )
    return path


def _compare(model: Path, text: Path, out: Path, *options: object) -> Any:
    only = [part for label in LABELS for part in ("--only", label)]
    sizes = ["--limit", 4, "--traced", 2, "--max-new-tokens", 12, "--text", text]
    return run("compare", model, "--task", "tiny_reasoner", "--out", out, "--quick", *sizes, *only, *options)


@pytest.fixture(scope="module")
def compared(tiny: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("comparison") / "out"
    result = _compare(tiny, text, out)
    assert result.exit_code == 0, result.output
    return out, result.stdout


def _files(directory: Path) -> dict[str, bytes]:
    """Returns the files of results. Records hold times, so they would differ if they were made again."""
    kept = ("records", "divergence", "calibration")
    return {str(path): path.read_bytes() for name in kept for path in (directory / name).glob("[!.]*")}


def test_one_table_of_all(compared: tuple[Path, str]) -> None:
    out, shown = compared
    rows = {row["label"]: row for row in json.loads((out / "table.json").read_text())}
    assert tuple(rows) == LABELS
    dense = rows["dense"]
    assert (dense["divergence"]["kl"], dense["divergence"]["agreement"], dense["against_dense"]) == (
        0,
        1,
        None,
    )
    for label in LABELS[1:]:
        row = rows[label]
        assert row["divergence"]["mean_kl"] > 0
        assert row["divergence"]["tokens"] == dense["divergence"]["tokens"]
        assert row["summary"]["problems"]["total"] == dense["summary"]["problems"]["total"]
        assert row["against_dense"] is not None
        assert 0.2 < row["summary"]["actual_sparsity"] < 0.8
    markdown = (out / "table.md").read_text()
    assert all(f"| {label} | 4 |" in markdown for label in LABELS)
    assert all(label.split()[0] in shown for label in LABELS)
    assert shown.count("target sparsity") == shown.count("┏━") == 1  # dense is part of it
    assert (out / "figure.svg").read_text().lstrip().startswith("<?xml")


def test_a_second_run_makes_nothing_again(tiny: Path, text: Path, compared: tuple[Path, str]) -> None:
    out, shown = compared
    before = _files(out)
    assert len(before) == 4 + 4 + 2
    assert _compare(tiny, text, out).stdout == shown
    assert _files(out) == before


def test_shards_make_the_whole(tiny: Path, text: Path, compared: tuple[Path, str], tmp_path: Path) -> None:
    for part in ("1/2", "2/2"):
        assert _compare(tiny, text, tmp_path / "out", "--shard", part).exit_code == 0
    _compare(tiny, text, tmp_path / "out", "--table")
    whole, parts = (json.loads((out / "table.json").read_text()) for out in (compared[0], tmp_path / "out"))

    def timeless(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{**row, "summary": {**row["summary"], "decode_tokens_per_second": None}} for row in rows]

    assert timeless(parts) == timeless(whole)


def test_a_table_of_what_is_there(tiny: Path, text: Path, tmp_path: Path) -> None:
    part = _compare(tiny, text, tmp_path / "out", "--shard", "1/4")
    assert "shard 1/4 is complete" in part.stdout
    assert not (tmp_path / "out" / "table.json").exists()  # other parts may still be running
    result = _compare(tiny, text, tmp_path / "out", "--table")
    rows = {row["label"]: row for row in json.loads((tmp_path / "out" / "table.json").read_text())}
    assert list(rows) == ["dense"]
    assert "3 of 4 cells have not been run" in result.stdout
    nothing = _compare(tiny, text, tmp_path / "nothing", "--table")
    assert (nothing.exit_code, nothing.stdout) == (1, "")
    assert "holds no results of these cells; run the comparison first" in nothing.stderr


def test_a_slice_is_added_to_what_is_there(tiny: Path, text: Path, compared: tuple[Path, str]) -> None:
    out, _ = compared
    before = (out / "table.json").read_bytes(), (out / "figure.svg").read_bytes()
    assert run("compare", tiny, "--out", out, "--table", "--only", "TEAL").exit_code == 0
    assert ((out / "table.json").read_bytes(), (out / "figure.svg").read_bytes()) == before


def test_a_changed_text_makes_new_calibrations(tiny: Path, text: Path, tmp_path: Path) -> None:
    own, out = tmp_path / "own.jsonl", tmp_path / "out"
    own.write_bytes(text.read_bytes())
    assert _compare(tiny, own, out).exit_code == 0
    own.write_bytes(b"".join(reversed(text.read_bytes().splitlines(keepends=True))))
    result = _compare(tiny, own, out)
    assert (result.exit_code, "was made with other settings" in result.stderr) == (1, True)
    assert len(list((out / "calibration").glob("teal-*.safetensors"))) == 2


def test_how_many_cells_and_about_how_long_is_said_first(tiny: Path, text: Path, tmp_path: Path) -> None:
    first = _compare(tiny, text, tmp_path / "out", "--only", "random")
    said, *batches = first.stderr.splitlines()
    assert re.fullmatch(
        r"regrow: 5 cells, 11 batches to run: about \d+\.\d s if every answer runs to its limit of "
        r"12 tokens, calibrations not counted",
        said,
    )
    assert (
        sum(": dense traces" in line or ": divergence" in line or ": answers" in line for line in batches)
        == 11
    )
    assert _compare(tiny, text, tmp_path / "out", "--only", "random").stderr == ""  # nothing is left to do


def _refused_before_anything_runs(result: Any, out: Path) -> str:
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert not list(out.glob("*/*"))
    return str(result.stderr)


def test_a_text_that_only_a_later_cell_needs_is_looked_at_first(
    tiny: Path, text: Path, tmp_path: Path
) -> None:
    short, other = tmp_path / "short.jsonl", tmp_path / "other.jsonl"
    short.write_text('{"text": "A add 1 2"}\n')
    other.write_text('{"question": "A add 1 2"}\n')
    for path, sentence in (
        (tmp_path / "missing.txt", "cannot be read: No such file or directory"),
        (tmp_path, "cannot be read: Is a directory"),
        (short, "give more text"),
        (other, 'holds no "text"'),
    ):
        assert sentence in _refused_before_anything_runs(
            _compare(tiny, path, tmp_path / "out"), tmp_path / "out"
        )


def test_prompts_that_only_the_answers_need_must_fit_too(tiny: Path, text: Path, tmp_path: Path) -> None:
    longest = max(len(item.prompt) for item in load("tiny_reasoner").first(40).items)
    few = max(len(item.prompt) for item in load("tiny_reasoner").first(2).items)
    assert few < longest
    sizes = ("--limit", 40, "--max-new-tokens", 512 - longest + 20)
    assert "do not fit the context of 512" in _refused_before_anything_runs(
        _compare(tiny, text, tmp_path, *sizes), tmp_path
    )


def test_a_later_cell_of_other_settings_is_found_before_the_first_runs(
    tiny: Path, text: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    only = ("--only", "random", "--limit", 4, "--traced", 2, "--text", text)
    common = ("compare", tiny, "--task", "tiny_reasoner", "--out", out, "--quick")
    assert run(*common, *only, "--max-new-tokens", 12).exit_code == 0
    before = _files(out)
    result = _compare(tiny, text, out, "--only", "random", "--max-new-tokens", 13)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "was made with other settings (max_new_tokens is 12 there and 13 here)" in result.stderr
    assert _files(out) == before


def test_a_quick_look_is_smaller_for_larger_models() -> None:
    small, large, larger = (scale.quick(int(size)) for size in (5e6, 135e6, 1.5e9))
    assert not small.labels  # every entry, whole answers
    assert (small.prompts, small.max_new_tokens) == (8, scale.FULL.max_new_tokens)
    known = {cell.label for cell in grid.grid((grid.SWEPT,), others=False)}
    assert set(large.labels) < known
    assert len(large.labels) < len(known) / 2
    assert large.prompts < small.prompts
    assert larger.max_new_tokens <= large.max_new_tokens < small.max_new_tokens
    assert larger.max_new_tokens > 64 + 20  # longer than T_init and a period, so that something is pruned
    assert (large.sequences or 0) * (large.length or 0) < 16 * 2048


def test_a_quick_look_at_a_larger_model_has_fewer_entries(
    tiny: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scale, "QUICK_PARAMETERS", 1)
    monkeypatch.setattr(scale, "QUICK_LABELS", ("dense", "random"))
    sizes = ("--limit", 2, "--traced", 2, "--max-new-tokens", 12, "--text", text)
    result = run("compare", tiny, "--task", "tiny_reasoner", "--out", tmp_path, "--quick", *sizes)
    assert result.exit_code == 0, result.output
    assert result.stderr.startswith("regrow: 2 cells, 5 batches to run: about ")
    assert sorted(path.stem for path in (tmp_path / "records").iterdir()) == ["dense-b4", "random-s0.5-b4"]


def test_a_damaged_divergence_is_one_sentence(
    tiny: Path, text: Path, compared: tuple[Path, str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(compared[0], out)
    path = out / "divergence" / "teal-s0.5-b4.json"
    whole = json.loads(path.read_text())
    for value in (b"", b"\xff", b"3", b"[" * 9999, *(json.dumps({**whole, **bad}).encode() for bad in BAD)):
        path.write_bytes(value)
        result = _compare(tiny, text, out, "--table")
        assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1)
        assert f"{path} is damaged (" in result.stderr


BAD: tuple[dict[str, Any], ...] = (
    {"mean_kl": None},
    {"mean_kl": float("nan")},
    {"weights_dense": 0},
    {"settings": []},
    {"agreement": "all"},
)


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        (["--only", "BAPP"], 2, "unknown entry 'BAPP' at batch 4; choose from: dense; BAP;"),
        (["--shard", "3/2"], 2, "--shard takes I/N with I from 1 to N, such as 1/2, not '3/2'"),
        (["--limit", "100000"], 2, "limit must be from 1 to "),
        (["--max-new-tokens", "13"], 1, "was made with other settings"),
    ],
)
def test_what_does_not_fit_is_refused(
    tiny: Path, text: Path, compared: tuple[Path, str], options: list[str], code: int, sentence: str
) -> None:
    before = _files(compared[0])
    result = _compare(tiny, text, compared[0], *options)
    assert (result.exit_code, result.stdout) == (code, "")
    assert sentence in result.stderr
    assert _files(compared[0]) == before


def test_names_and_sparsities_as_everywhere(tiny: Path, text: Path, tmp_path: Path) -> None:
    sizes = ["--limit", 2, "--traced", 2, "--max-new-tokens", 12, "--text", text, "--batch-size", "2"]
    asked = ["--method", "griffin,magnitude", "--sparsity", "0.2,0.3", "--sparsity", "0.75"]
    result = run("compare", tiny, "--task", "tiny_reasoner", "--out", tmp_path, *sizes, *asked)
    assert result.exit_code == 0, result.output
    rows = json.loads((tmp_path / "table.json").read_text())
    assert [(row["label"], row["target"]) for row in rows] == [
        ("dense", 0), ("GRIFFIN", 0.2), ("magnitude", 0.2), ("GRIFFIN", 0.3), ("magnitude", 0.3),
        ("GRIFFIN", 0.75), ("magnitude", 0.75),
    ]  # fmt: skip
    # What was run is tabulated whatever is asked for, and drawn at a sparsity that was run.
    again = run("compare", tiny, "--out", tmp_path, "--table", "--method", "griffin", "--batch-size", 2)
    assert again.exit_code == 0
    assert json.loads((tmp_path / "table.json").read_text()) == rows
    for name in ("figure.svg", "tradeoff.svg"):
        assert "magnitude" in (tmp_path / name).read_text()
    assert run("table", tmp_path).stdout.count("griffin") >= 3


def test_a_directory_is_a_table_of_its_records(compared: tuple[Path, str], tmp_path: Path) -> None:
    out, _ = compared
    dense, *others = sorted((out / "records").glob("*.jsonl"), key=lambda path: "dense" not in path.name)
    files = [dense, *sorted(others)]
    assert run("table", out, "--json").stdout == run("table", *files, "--json").stdout
    empty = run("table", tmp_path)
    assert (empty.exit_code, empty.stdout) == (2, "")
    assert "holds no record files" in empty.stderr


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--method", "bap", "--only", "dense"], "exclude each other"),
        (["--method", "BAP"], "BAP"),
        (["--sparsity", "half"], "sparsity must be a number in [0, 1), not 'half'"),
        (["--sparsity", "0.3,0"], "dense model, which every comparison includes"),
        (["--method", "bap,sparsegpt", "--sparsity", "0.25"], "'sparsegpt' prunes two of each four weights"),
        (["--batch-size", "1,x"], "--batch-size takes whole numbers"),
        (["--batch-size", "0"], "--batch-size takes whole numbers"),
    ],
)
def test_a_grid_that_is_none_is_refused(tmp_path: Path, options: list[str], sentence: str) -> None:
    result = run("compare", "--out", tmp_path / "out", *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert sentence in result.stderr
    assert not (tmp_path / "out").exists()


def test_what_is_left_is_counted_by_batch(tiny: Path, tmp_path: Path) -> None:
    sizes = ["--limit", 6, "--traced", 2, "--max-new-tokens", 4, "--batch-size", 2, "--method", "griffin"]
    command = ("compare", tiny, "--task", "tiny_reasoner", "--out", tmp_path, *sizes)
    assert "2 cells, 9 batches to run" in run(*command).stderr
    path = tmp_path / "records" / "griffin-s0.5-b2.jsonl"
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    (said, *batches) = run(*command).stderr.splitlines()
    assert "2 cells, 2 batches to run" in said
    assert [line.split(" (")[0] for line in batches] == [
        f"regrow: GRIFFIN at 50 %, batch 2: answers: {done} of 3" for done in (2, 3)
    ]
