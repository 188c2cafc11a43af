"""What a new user reads first is true: the code runs, the commands exist, the numbers are measured."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.main import get_group

from command import run
from regrow.cli import app
from scripts.readme_table import table
from scripts.real_model_table import RESULTS as REAL_MODEL
from scripts.real_model_table import tables as real_model_tables

HOME = Path(__file__).parents[1]
PAGES = ("README.md", "docs/index.md", "docs/getting-started.md", "docs/command-line.md")
COMMANDS = set(get_group(app).commands)


def _blocks(page: str, language: str) -> list[str]:
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", (HOME / page).read_text(), re.DOTALL | re.MULTILINE)
    return [text for found, text in blocks if found == language]


def _commands() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for block in _blocks(page, ""):
            for line in block.splitlines():
                if line.startswith("regrow "):
                    yield page, re.split(r"\s{2,}#", line)[0]


@pytest.mark.parametrize("page", ["README.md", "docs/getting-started.md"])
def test_the_code_runs_on_the_bundled_model(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = [block for block in _blocks(page, "python") if "org/" not in block and "Qwen/" not in block]
    assert blocks
    exec("\n".join(blocks), {})
    assert "actual sparsity" in capsys.readouterr().out


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_the_first_code_differs_from_code_that_runs_in_the_model_alone(page: str) -> None:
    first = _blocks(page, "python")[0]
    local = re.sub(r'"Qwen/[^"]*"', "model_path()", first)
    assert first != local
    names: dict[str, object] = {}
    exec("from regrow.bundled import model_path\n" + local, names)
    assert names["done"].texts  # type: ignore[attr-defined]


@pytest.mark.parametrize(("page", "command"), list(_commands()))
def test_commands_and_their_options_exist(page: str, command: str) -> None:
    name, *arguments = command.split()[1:]
    if name.startswith("--") or name == "COMMAND":
        return
    assert name in COMMANDS
    if name == "lm-eval":
        pytest.importorskip("lm_eval", reason="the options are those of lm-evaluation-harness")
    shown = run(name, "--help").stdout
    for option in (argument for argument in arguments if argument.startswith("-")):
        assert re.search(rf"{option}\b", shown), f"{page}: regrow {name} has no {option}"


def test_the_speeds_are_those_of_the_results() -> None:
    assert f"\n\n{table()}\n\n" in (HOME / "README.md").read_text(), (
        "run python scripts/readme_table.py, and put what it prints in README.md"
    )


def test_the_accuracies_are_those_of_the_results() -> None:
    rows = json.loads((HOME / "results" / "comparison" / "table.json").read_text())
    text = " ".join((HOME / "README.md").read_text().split())
    right = {
        (row["label"], row["batch_size"]): row["summary"]["problems"]["value"]
        for row in rows
        if row["target"] in (0, 0.5) and row["summary"]
    }
    for label in ("BAP", "GRIFFIN"):
        assert " / ".join(f"{100 * right[label, size]:.1f} %" for size in (1, 4, 8, 16)) in text
    for label in ("dense", "magnitude"):
        (same,) = {f"{100 * right[label, size]:.1f} %" for size in (1, 4, 8, 16)}
        assert same in text
    actual = [
        100 * row["summary"]["actual_sparsity"]
        for row in rows
        if row["label"] == "BAP" and row["target"] == 0.5
    ]
    assert f"{min(actual):.0f} to {max(actual):.0f} %" in text


def test_the_accuracies_of_the_real_model_are_those_of_its_records() -> None:
    tables = real_model_tables(REAL_MODEL)
    for shown in tables.values():
        assert f"\n\n{shown}\n\n" in (HOME / "docs" / "results.md").read_text(), (
            "run python scripts/real_model_table.py, and put what it prints in docs/results.md"
        )
    table = tables["tinygsm8k"]
    right = {
        tuple(cell.strip() for cell in line.split("|")[1:4]): line.split("|")[6].split("(")[0].strip()
        for line in table.splitlines()[2:]
    }
    text = " ".join((HOME / "README.md").read_text().split())
    assert f"dense answers {right['dense', '16', '0 %']} of the problems right" in text
    assert " / ".join(right["BAP", "16", f"{share} %"] for share in (30, 40, 50)) in text
    griffin, teal, cats = (right[label, "16", "50 %"] for label in ("GRIFFIN", "TEAL", "CATS"))
    assert f"(GRIFFIN) answers {griffin} at 50 %, TEAL {teal} and CATS {cats}." in text


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "examples/README.md"])
def test_links_to_files_lead_somewhere(page: str) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", (HOME / page).read_text())
    assert links or page != "README.md"
    assert [link for link in links if not ((HOME / page).parent / link).exists()] == []


def test_the_first_screen_has_what_a_newcomer_looks_for() -> None:
    first = (HOME / "README.md").read_text().partition("\n## ")[0]
    assert first.count("pip install") == 1
    assert first.count("![") == 1
    assert first.count("\n| --- |") == 1
    assert "```python" in first
    assert len(first.splitlines()) < 50
