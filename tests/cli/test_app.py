"""The command as a whole: help, version, verbose output and shell completion."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version

import pytest
from typer.main import get_group

from command import run, start, words
from regrow.cli import app
from regrow.evaluation.tasks import TASKS
from regrow.method.presets import PRESETS, parameters
from regrow.models import DTYPES
from regrow.selection.index_set import AGGREGATES, MEMORIES

COMMANDS = list(get_group(app).commands)


def test_help_lists_every_command() -> None:
    result = run("--help")
    assert result.exit_code == 0
    assert COMMANDS == [
        "generate",
        "demo",
        "methods",
        "calibrate",
        "evaluate",
        "compare",
        "inspect",
        "bench",
        "report",
        "serve",
        "lm-eval",
        "grade",
        "table",
    ]
    assert all(f" {name} " in words(result.stdout) for name in COMMANDS)


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "lm-eval"])
def test_every_option_is_explained_and_no_place_for_choices_stays_empty(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert set(re.findall(r"\{\w+\}", result.stdout)) <= {
        "{question}"
    }  # that one is part of a prompt template


def test_choices_in_help_come_from_the_registries() -> None:
    text = words(run("evaluate", "--help").stdout)
    for names in (PRESETS, AGGREGATES, MEMORIES, DTYPES, TASKS):
        assert ", ".join(names) in text


def test_defaults_of_the_method_come_from_the_registry() -> None:
    text = words(run("evaluate", "--help").stdout).partition(" --method -m ")[2]
    for name in ("sparsity", "init_steps", "explore_steps", "period", "aggregate", "memory", "decay"):
        shown = re.search(rf"--{name.replace('_', '-')} .*?Default: (\S+)\.", text)
        assert shown is not None
        assert shown[1] == str(parameters("bap")[name])


def test_paragraphs_of_help_are_wrapped_at_the_width_of_the_terminal() -> None:
    lines = [line.strip() for line in run("generate", "--help").stdout.splitlines()]
    start = next(number for number, line in enumerate(lines) if line.startswith("Answers are shown"))
    paragraph = lines[start : lines.index("", start)]
    assert all(len(line) > 80 for line in paragraph[:-1])


def test_version() -> None:
    result = run("--version")
    assert (result.exit_code, result.stdout) == (0, f"regrow {version('regrow')}\n")


@pytest.mark.parametrize(
    "arguments",
    [["no-such-command"], ["generate", "--no-such-option"], ["evaluate"], ["generate", "--init-steps", "x"]],
)
def test_what_the_parser_refuses_ends_with_2(arguments: list[str]) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("regrow: error: ")
    assert result.stderr.endswith(" --help\n")
    assert result.stderr.count("\n") == 1


def test_generate_and_evaluate_have_the_same_options_of_a_method() -> None:
    """Except that one command takes a method and a sparsity, and the other takes several of both."""
    found = [
        re.search(r"--init-steps .*?--param[^-]*", words(run(command, "--help").stdout))
        for command in ("generate", "evaluate")
    ]
    texts = [match.group() for match in found if match]
    assert len(texts) == 2
    assert texts[0] == texts[1]
    assert all(
        f"--{name.replace('_', '-')}" in texts[0]
        for name in ("init_steps", "period", "decay", "forget_finished")
    )


def test_help_is_shown_without_importing_torch() -> None:
    """Keeps `regrow --help` quick. A time limit would depend on the machine."""
    code = (
        "import sys\nsys.argv = ['regrow', '--help']\nfrom regrow.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


GENERATE = ("generate", "-p", "A add 1 2", "--max-new-tokens", "2", "--json")


def test_nothing_but_progress_is_said_unasked() -> None:
    with start(*GENERATE) as process:
        _, said = process.communicate(timeout=120)
    assert process.returncode == 0
    assert all(line.startswith("regrow: decoding: batch ") for line in said.splitlines())


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """Return Regrow's logger, which is as quiet after the test as before."""
    logger = logging.getLogger("regrow")
    handlers, level = [*logger.handlers], logger.level
    yield logger
    logger.handlers[:] = handlers
    logger.setLevel(level)


@pytest.mark.usefixtures("logger")
@pytest.mark.parametrize("given", [["-v", *GENERATE], [*GENERATE, "-v"]])
def test_verbose_says_what_is_decided(given: list[str]) -> None:
    assert "regrow: a batch of 1 runs fused" in run(*given).stderr


@pytest.mark.usefixtures("logger")
def test_verbose_shows_where_an_error_came_from() -> None:
    result = run("-v", "generate", "-p", "A add 1 2", "--sparsity", "2")
    assert result.exit_code == 2
    assert "Traceback" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("regrow: error: ")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_get_a_completion(shell: str) -> None:
    # Otherwise typer looks for the shell that the tests were started from.
    environment = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    with start("--show-completion", shell, environment=environment) as process:
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert f"_REGROW_COMPLETE=complete_{shell}" in out


def test_commands_are_completed() -> None:
    environment = {"_REGROW_COMPLETE": "complete_bash", "COMP_WORDS": "regrow ev", "COMP_CWORD": "1"}
    with start(environment=environment) as process:
        out, _ = process.communicate(timeout=60)
    assert out.split() == ["evaluate"]


def test_without_lm_eval_a_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["regrow.cli.lm_eval"], "find_spec", lambda name: None)
    result = run("lm-eval", "--tasks", "gsm8k")
    assert result.exit_code == 2
    assert result.stderr == (
        "regrow: error: lm-evaluation-harness is not installed; pip install 'regrow[lm-eval]'\n"
    )
