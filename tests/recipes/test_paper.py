"""The recipe for the paper's tables: every command parses, and one table runs to its report."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import typer

import commands
import made_inputs
import reproduce
import settings
from command import run
from commands import Command, Setting
from hours import ASSUMED_LONGEST, estimates
from regrow.cli import app
from regrow.evaluation.tasks import load
from regrow.evaluation.tasks.task import TaskRequest
from regrow.paper_results import accuracies, results
from settings import LLAMA, MODELS, QWEN, SCHEDULES, TABLES, TASKS, Cell, Schedule, cells

BOTH = list(MODELS.values())


def _planned(given: Callable[[Setting], Setting]) -> list[Command]:
    return commands.commands(given(Setting(Path("out"))), TABLES, BOTH)


@pytest.mark.parametrize(
    "given",
    [
        lambda setting: setting,
        commands.small,
        lambda setting: replace(setting, data_dir="data", text="c4.txt", device="cuda:1", shard="2/8"),
    ],
    ids=["paper", "dry run", "own files"],
)
def test_every_command_line_parses(given: Callable[[Setting], Setting]) -> None:
    known = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for command in _planned(given):
        name, *arguments = command.arguments
        parsed = known[name].make_context(name, list(arguments))
        assert not parsed.args
        assert shlex.split(command.line) == ["regrow", name, *arguments]


def test_cells_are_those_of_the_papers_tables() -> None:
    """Each accuracy of tables 2 to 4 has a cell with its task, and no cell has another one."""
    methods = {"dense": "dense", "Wanda 2:4": "wanda", "GRIFFIN": "griffin", "TEAL": "teal"}
    printed = Counter(
        (one.model, methods.get(one.method, "bap"), one.task, one.batch_size)
        for one in accuracies()
        if one.target in (0.0, 0.5)
    )
    here: Counter[tuple[str, str, str, int | None]] = Counter()
    for cell, tasks in cells(TABLES, BOTH).items():
        size = None if cell.method == "griffin" else cell.batch_size
        here.update((cell.model.title, cell.method, task, size) for task in tasks)
    assert here == printed


def test_the_schedules_are_those_of_table_3() -> None:
    rows = results()["ablation"]["rows"]
    assert {Schedule(row["init_steps"], row["explore_steps"], row["period"]) for row in rows} == set(
        SCHEDULES
    )
    assert len(cells([3], BOTH)) == len(SCHEDULES)


def test_tables_share_their_cells_and_a_narrow_one_asks_for_its_task_alone() -> None:
    usual = Cell(QWEN, "bap", 4, settings.USUAL)
    assert cells([3], BOTH)[usual] == ("math500",)
    assert cells([2, 3], BOTH)[usual] == TASKS
    assert not cells([5, 6], BOTH)
    reports = [commands.commands(Setting(Path("o")), [table], BOTH, ["report"])[0] for table in (5, 6)]
    assert [one.arguments for one in reports] == [
        ("report", f"o/{model.name}", "--out", "o/report") for model in (QWEN, LLAMA)
    ]


def test_the_estimate_is_its_own_arithmetic() -> None:
    (dense,) = (one for one in estimates(cells([2], [QWEN])) if one.cell.method == "dense")
    assert dense.questions == 100 + 500 + 272 + 40 + 198
    assert dense.batches == 13 + 63 + 34 + 5 + 25
    assert dense.hours == dense.batches * ASSUMED_LONGEST[8] * 8 / 1596.0 / 3600
    assert dense.most == dense.hours * 16_000 / ASSUMED_LONGEST[8]
    ablated = {one.cell.schedule: one.tokens_per_second for one in estimates(cells([3], BOTH))}
    assert ablated[Schedule(period=10)] == 806.3


def test_made_questions_are_those_that_the_tasks_read(tmp_path: Path) -> None:
    folder = made_inputs.write_data(tmp_path)
    for name in TASKS:
        assert load(name, TaskRequest(folder, None, "")).items


def _here(ran: list[str]) -> reproduce.Run:
    """Runs commands in this process, and notes their lines."""

    def run_here(command: Command) -> int:
        ran.append(command.line)
        result = run(*command.arguments)
        assert result.exit_code == 0, (command.line, result.output)
        return 0

    return run_here


def test_a_dry_run_ends_in_a_report_and_a_second_one_calibrates_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Table 2, of one task each of mathematics and of choices."""
    monkeypatch.setattr(settings, "TASKS", ("amc23", "gpqa-diamond"))
    monkeypatch.setattr(made_inputs, "TASKS", ("amc23", "gpqa-diamond"))
    ran: list[str] = []
    arguments = ["--out", str(tmp_path), "--model", "llama-8b", "--table", "2", "--dry-run"]
    assert reproduce.main(arguments, _here(ran)) == 0
    assert [line.split()[1] for line in ran] == ["calibrate"] * 2 + ["evaluate"] * 5 + ["report"]
    shown = capsys.readouterr().out
    assert all(line in shown for line in ran)
    report = (tmp_path / "report" / "report.md").read_text()
    for name in ("dense", "Wanda 2:4", "GRIFFIN", "TEAL", "BAP"):
        assert f"| {name} " in report
    assert "yes, by name" not in report
    again: list[str] = []
    assert reproduce.main([*arguments, "--step", "calibrate"], _here(again)) == 0
    assert not again
    assert "is there; not run again" in capsys.readouterr().out


def _refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert reproduce.main(["--out", "nowhere", *arguments], lambda _: pytest.fail("ran")) == 2
    error = capsys.readouterr().err
    assert error.startswith("reproduce: error: ")
    assert error.count("\n") == 1
    return error


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--table", "7"], "--table takes numbers from 2, 3, 4, 5, 6, not '7'"),
        (["--table", "3", "--model", "llama-8b"], "the paper has no table 3 for llama-8b"),
        (["--step", "train"], "--step takes names from calibrate, evaluate, bench, report, not 'train'"),
        (["--shard", "1/2", "--step", "bench"], "--shard shares out --step evaluate alone"),
        (["--shard", "1/2", "--device", "cpu"], "all shards must share it"),
        (["--weights", "nowhere"], "is not a directory; put deepseek-ai/"),
        (["--dry-run", "--data-dir", "data"], "leave out --data-dir"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_runs(
    capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    assert sentence in _refused(capsys, *arguments)


def test_the_paper_needs_a_gpu(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "there is no GPU here" in _refused(capsys, "--table", "5")


def test_a_command_that_fails_ends_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran: list[Command] = []

    def fails(command: Command) -> int:
        ran.append(command)
        return 1

    arguments = ["--out", str(tmp_path), "--table", "5", "--device", "cpu"]
    assert reproduce.main(arguments, fails) == 1
    assert len(ran) == 1
    assert f"`{ran[0].line}` ended with 1" in capsys.readouterr().err


def test_a_list_runs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "results"
    assert reproduce.main(["--out", str(out), "--list"], lambda _: pytest.fail("ran")) == 0
    shown = capsys.readouterr().out
    assert "hours on one H200" in shown
    assert f"regrow report {out}/qwen-7b {out}/llama-8b --out {out}/report" in shown
    assert not out.exists()
