"""The `regrow` command in this process."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

from typer.testing import CliRunner, Result

from regrow.cli import app

SCRIPT = [sys.executable, "-c", "from regrow.cli import main; main()"]


def run(*arguments: object, input: str | bytes | None = None) -> Result:  # noqa: A002  (CliRunner's name for it)
    """Run a command, as in `run("generate", path, "--json")`; return its exit code and output.

    An exception that the command does not handle is raised.
    """
    result = CliRunner().invoke(
        app, [str(argument) for argument in arguments], input=input, env={"COLUMNS": "100"}
    )
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def start(
    *arguments: object, environment: Mapping[str, str] | None = None, **settings: Any
) -> subprocess.Popen[str]:
    """Start the command in its own process, on pipes.

    SIGINT (Ctrl-C) gets its default handler, because shells start background jobs that ignore it.
    """
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | settings
    pipes["preexec_fn"] = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    variables = os.environ | {"PYTHONUNBUFFERED": "1"} | dict(environment or {})
    return subprocess.Popen([*SCRIPT, *map(str, arguments)], text=True, env=variables, **pipes)


def words(text: str) -> str:
    """Return help without frames and line breaks."""
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", text).split())


def lines(text: str) -> list[dict[str, Any]]:
    """Parse JSON lines. Fails on any line that is not JSON."""
    return [json.loads(line) for line in text.splitlines()]
