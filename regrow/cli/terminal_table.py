"""Tables for a terminal."""

from __future__ import annotations

from typing import Literal

from rich.table import Table as RichTable
from rich.text import Text

from regrow.format import printable
from regrow.table import Table


def terminal_table(table: Table, *, padding: int = 1, whole: int | None = None) -> RichTable:
    """Returns the table as rich draws it, without its notes.

    Long cells are wrapped, never cut off. The column of number `whole` keeps its lines; the others shrink.
    """
    drawn = RichTable(
        title=Text(printable(table.title)) if table.title else None,
        title_justify="left",
        padding=(0, padding),
        pad_edge=not table.title,
    )
    for number, column in enumerate(table.columns):
        side: Literal["left", "right"] = "right" if column.right else "left"
        drawn.add_column(
            Text(printable(column.header)), justify=side, overflow="fold", no_wrap=number == whole
        )
    for row in table.rows:
        drawn.add_row(*(Text(printable(text)) for text in row))
    return drawn
