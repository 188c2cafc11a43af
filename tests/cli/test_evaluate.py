"""`regrow evaluate` and `regrow table`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from command import run
from regrow.analysis.summary import summarize
from regrow.cli.bar import Bar
from regrow.evaluation.grading import grade
from regrow.models import load
from regrow.record_file import read


def _evaluate(model: Path, path: Path, *options: object) -> Any:
    return run(
        "evaluate",
        model,
        "--limit",
        5,
        "--batch-size",
        2,
        "--max-new-tokens",
        12,
        "--no-chat",
        "--task",
        "tiny_reasoner",
        "--out",
        path,
        *options,
    )


@pytest.fixture(scope="module")
def recorded(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("records") / "bap.jsonl"
    result = _evaluate(
        tiny, path, "--task", "tiny-reasoner", "--sparsity", "0.5", "--init-steps", 2, "--skip-layers", "1"
    )
    assert result.exit_code == 0, result.output
    return path


def test_what_is_recorded_is_what_was_asked_for(tiny: Path, recorded: Path) -> None:
    records = read(recorded)
    config = records[0].config
    assert [record.batch for record in records] == [0, 1, 2]
    assert (config.method, config.params["sparsity"], config.params["init_steps"]) == ("bap", 0.5, 2)
    assert (config.limit, config.batch_size, config.max_new_tokens, config.chat) == (5, 2, 12, False)
    assert config.skip_layers == (1,)
    assert config.fingerprint == load(tiny).fingerprint


def test_a_second_run_repeats_nothing_and_prints_the_table_again(tiny: Path, recorded: Path) -> None:
    before = recorded.read_bytes()
    again = _evaluate(tiny, recorded, "--init-steps", 2, "--skip-layers", "1")
    assert again.exit_code == 0
    assert recorded.read_bytes() == before
    assert again.stdout == run("table", recorded).stdout
    title = "tiny_reasoner, bap (sparsity=0.5, init_steps=2), batch size 2"
    assert again.stderr.splitlines() == [
        f"regrow: {title}: found 3 of 3 batches in {recorded}; nothing is left to run",
        f"regrow: the records are in {recorded}",
    ]


def test_json_is_that_of_the_table(tiny: Path, recorded: Path, tmp_path: Path) -> None:
    result = _evaluate(tiny, recorded, "--init-steps", 2, "--skip-layers", "1", "--json")
    assert (result.exit_code, result.stdout) == (0, run("table", recorded, "--json").stdout)
    assert json.loads(_evaluate(tiny, tmp_path, "--shard", "4/4", "--json").stdout) == []


def test_progress_within_a_batch_is_out_of_the_tokens_that_it_may_have(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("regrow.cli.bar.SECONDS_BETWEEN_LINES", 0)
    shares: list[float] = []
    show = Bar.show
    monkeypatch.setattr(Bar, "show", lambda bar, done, note: (shares.append(done), show(bar, done, note)))
    path = tmp_path / "run.jsonl"
    result = run("evaluate", tiny, "--task", "tiny_reasoner", "--limit", 1, "--no-chat", "--out", path)
    assert result.exit_code == 0, result.output
    longest = read(path)[0].config.max_new_tokens
    assert longest < 512  # the context
    title = "tiny_reasoner, bap (sparsity=0.5), batch size 8"
    first = result.stderr.splitlines()[0]
    assert first.startswith(f"regrow: {title}: batch 1 of 1 at 1 of {longest} tokens (")
    assert first.endswith(" left)")
    assert shares[0] == 1 / longest
    assert f"regrow: {title}: 1 of 1 batch, the last at " in result.stderr


def test_the_table_says_what_the_records_say(recorded: Path) -> None:
    result, summary = run("table", recorded), summarize(grade(recorded))
    assert result.exit_code == 0
    assert summary.counters.actual_sparsity is not None
    assert f"{100 * summary.counters.actual_sparsity:.1f} %" in result.stdout
    assert f"{summary.problems.right}/{summary.problems.total}" in result.stdout
    assert all(family in result.stdout for family in summary.families)


def test_json_and_markdown(recorded: Path) -> None:
    values = json.loads(run("table", recorded, recorded, "--json").stdout)
    assert [value["config"]["method"] for value in values] == ["bap", "bap"]
    markdown = run("table", recorded, "--markdown").stdout
    assert markdown.startswith("### tiny_reasoner, 5 prompts")
    rows = [line for line in markdown.splitlines() if line.startswith("| bap | ")]
    assert len(rows) == 2  # the run, and its families
    assert all("sparsity=0.5" in row and "init_steps=2" in row for row in rows)


def test_an_incomplete_file_is_called_that(recorded: Path, tmp_path: Path) -> None:
    part = tmp_path / "part.jsonl"
    part.write_bytes(b"".join(recorded.read_bytes().splitlines(keepends=True)[:2]))
    assert "Run 1 is incomplete: 1 of 3 batches are missing." in run("table", part).stdout


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        (["--task", "riddles"], 2, "unknown task 'riddles'; choose one of gsm8k, tinygsm8k"),
        (["--limit", "100000"], 2, "limit must be from 1 to "),
        (["--sparsity", "0.25"], 1, "was made with other settings"),
    ],
)
def test_what_does_not_fit_is_refused(
    tiny: Path, recorded: Path, options: list[str], code: int, sentence: str
) -> None:
    before = recorded.read_bytes()
    result = _evaluate(tiny, recorded, "--init-steps", 2, "--skip-layers", "1", *options)
    assert (result.exit_code, result.stdout) == (code, "")
    assert sentence in result.stderr
    assert result.stderr.startswith("regrow: error: ")
    assert recorded.read_bytes() == before


def test_a_model_edited_since_is_refused_by_what_was_edited(tiny: Path, tmp_path: Path) -> None:
    """Each edit alone changes tokens, although the weights are the same."""
    model = tmp_path / "model"
    shutil.copytree(tiny, model)
    path = tmp_path / "run.jsonl"
    assert _evaluate(model, path, "--chat").exit_code == 0
    before = path.read_bytes()
    for name, edit, setting in (
        (
            "generation_config.json",
            lambda text: text.replace("{", '{"repetition_penalty": 1.3,', 1),
            "generation_config repetition_penalty is none there and 1.3 here)",
        ),
        ("chat_template.jinja", lambda text: "Hello" + text, "chat_template_sha256 "),
        ("tokenizer.json", lambda text: text + "\n", "tokenizer_sha256 "),
    ):
        kept = (model / name).read_text()
        (model / name).write_text(edit(kept))
        refused = _evaluate(model, path, "--chat")
        (model / name).write_text(kept)
        assert (refused.exit_code, refused.stdout) == (1, "")
        assert f"{path} was made with other settings ({setting}" in refused.stderr
        assert path.read_bytes() == before
    assert _evaluate(model, path, "--chat").exit_code == 0


@pytest.mark.parametrize("command", ["evaluate", "compare"])
def test_the_toy_exercises_are_for_another_model_only_where_named(
    tiny: Path, tmp_path: Path, command: str
) -> None:
    result = run(command, tiny, "--limit", 1, "--max-new-tokens", 4, "--out", tmp_path / "out")
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert (
        f"the exercises of the bundled model say nothing about {tiny}: name a task with --task"
        in result.stderr
    )
    assert not (tmp_path / "out").exists()


def test_the_bundled_model_has_a_task_of_its_own(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("regrow.models.loading.model_path", lambda: tiny)
    out = tmp_path / "run.jsonl"
    result = run("evaluate", "--limit", 1, "--max-new-tokens", 4, "--no-chat", "--out", out)
    assert result.exit_code == 0, result.output
    assert read(out)[0].config.task == "tiny_reasoner"


def test_a_shard_without_batches_says_so(tiny: Path, tmp_path: Path) -> None:
    result = _evaluate(tiny, tmp_path / "results", "--shard", "4/4")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "shard 4/4 holds no batch, because there are fewer batches than shards" in result.stderr
    assert not list(tmp_path.rglob("*.jsonl"))


def test_answers_too_short_for_the_schedule_say_so(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    result = _evaluate(tiny, path, "--sparsity", "0.5")
    shown = " ".join(result.stdout.split())
    assert (
        "Run 1: every decode step was dense: pruning begins after 64 of them (init_steps), "
        "and the longest answer has" in shown
    )
    assert "Row 1: every decode step was dense" in run("table", path, "--markdown").stdout


def test_records_that_cannot_be_written(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = _evaluate(tiny, tmp_path / "file" / "records.jsonl")
    assert result.exit_code == 1
    assert result.stderr == (
        f"regrow: error: {tmp_path}/file/records.jsonl cannot be written: {tmp_path}/file is a file and not "
        "a directory; choose another file\n"
    )


def test_a_refused_run_leaves_nothing(tiny: Path, tmp_path: Path) -> None:
    result = _evaluate(tiny, tmp_path / "o" / "sl", "--skip-layers", "99")
    assert (result.exit_code, result.stdout) == (2, "")
    assert list(tmp_path.iterdir()) == []


def test_tables_of_nothing(tmp_path: Path) -> None:
    missing = run("table", tmp_path / "missing.jsonl")
    assert (missing.exit_code, missing.stdout) == (2, "")
    assert (
        missing.stderr
        == f"regrow: error: {tmp_path / 'missing.jsonl'} cannot be read: No such file or directory\n"
    )
    both = run("table", tmp_path / "missing.jsonl", "--json", "--markdown")
    assert both.stderr == "regrow: error: --markdown and --json exclude each other; choose one\n"
