"""The command line, with one module for each command.

torch and transformers take seconds to import, so they are imported only when a command runs.
"""

from __future__ import annotations

import os
from importlib.metadata import version
from typing import Annotated

import typer

from regrow.cli.bench import bench
from regrow.cli.calibrate import calibrate
from regrow.cli.compare import compare
from regrow.cli.demo import demo
from regrow.cli.evaluate import evaluate
from regrow.cli.generate import generate
from regrow.cli.grade import grade
from regrow.cli.group import Command, Group
from regrow.cli.inspect import inspect
from regrow.cli.lm_eval import lm_eval
from regrow.cli.methods import methods
from regrow.cli.options import Verbose, with_verbose
from regrow.cli.report import report
from regrow.cli.serve import ServeCommand, serve
from regrow.cli.table import table

app = typer.Typer(
    name="regrow",
    cls=Group,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"regrow {version('regrow')}")
        raise typer.Exit


@app.callback()
def _root(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    __: Verbose = False,
) -> None:
    """Decode batches of prompts with fewer FFN neurons, chosen anew as the answers unfold. Needs no training.

    Start with `regrow demo`. `regrow COMMAND --help` explains the options of a command.
    """


_DECODE, _MEASURE = "Decode", "Measure"
for panel, command in (
    (_DECODE, generate),
    (_DECODE, demo),
    (_DECODE, methods),
    (_DECODE, calibrate),
    (_MEASURE, evaluate),
    (_MEASURE, compare),
    (_MEASURE, inspect),
    (_MEASURE, bench),
    (_MEASURE, report),
):
    app.command(cls=Command, rich_help_panel=panel)(with_verbose(command))
app.command(cls=ServeCommand, rich_help_panel=_DECODE)(with_verbose(serve))
# All arguments are lm-eval's, --help too.
_ALL_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
app.command(cls=Command, rich_help_panel=_MEASURE, context_settings=_ALL_ON)(lm_eval)
for command in (grade, table):  # these work without torch
    app.command(rich_help_panel=_MEASURE)(with_verbose(command))


def main() -> None:
    """Runs the `regrow` command."""
    # torch puts weights into huge pages; it reads this variable at its first allocation.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    app(prog_name="regrow")  # shell completion needs this name under `python -m regrow` too
