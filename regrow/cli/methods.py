"""`regrow methods`: lists the pruning methods."""

from __future__ import annotations

import json as jsonlib

import typer
from rich.console import Console
from rich.table import Table

from regrow.cli.choices import fill
from regrow.cli.options import Json
from regrow.format import parameters as shown

_CHOICES = (
    "Values for bap: aggregate {aggregates}; memory {memories}; weigh {weighings}. "
    "If another parameter is given a wrong word, the error message lists the valid ones."
)


def methods(json: Json = False) -> None:
    """List the methods with their parameters, defaults and sources."""
    from regrow.method.presets import PRESETS, parameters

    if json:
        found = [
            {"name": name, "summary": own.summary, "source": own.source, "parameters": parameters(name)}
            for name, own in PRESETS.items()
        ]
        typer.echo(jsonlib.dumps(found, indent=2))
        return
    table = Table("method", "what it does", "parameters and defaults", "source", show_lines=True)
    for name, own in PRESETS.items():
        table.add_row(name, own.summary, shown(parameters(name)), own.source)
    console = Console(highlight=False)
    console.print(table)
    console.print(fill(_CHOICES), style="dim")
