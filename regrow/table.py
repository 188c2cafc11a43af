"""Tables as values. Markdown and HTML are made here, tables for a terminal in `cli/terminal_table.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Final, final

from regrow.format import cell, printable

_UNFOLDED: Final = 3  # notes that a page shows; more are folded


@final
@dataclass(frozen=True)
class Column:
    """A column: its header, whether its cells are aligned right, and whether narrow tables have it too."""

    header: str
    right: bool = True
    narrow: bool = True


@final
@dataclass(frozen=True)
class Table:
    """A table of texts. A cell may have several lines; Markdown puts them on one."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    title: str = ""
    notes: tuple[str, ...] = ()  # sentences that belong below the table

    def __post_init__(self) -> None:
        """Raises ValueError if a row has another number of cells than there are columns."""
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"a row has {len(row)} cells for {len(self.columns)} columns")

    @classmethod
    def of(
        cls,
        columns: Sequence[Column],
        rows: Sequence[Sequence[str]],
        title: str = "",
        notes: Sequence[str] = (),
    ) -> Table:
        """Makes a table of any sequences."""
        return cls(tuple(columns), tuple(map(tuple, rows)), title, tuple(notes))

    @property
    def headers(self) -> tuple[str, ...]:
        return tuple(column.header for column in self.columns)

    def narrowed(self) -> Table:
        """Returns the table without the columns that only wide tables have."""
        kept = [number for number, column in enumerate(self.columns) if column.narrow]
        rows = [[row[number] for number in kept] for row in self.rows]
        return Table.of([self.columns[number] for number in kept], rows, self.title, self.notes)

    def after(self, columns: Sequence[Column], cells: Sequence[Sequence[str]]) -> Table:
        """Returns the table with these columns before its own; `cells` has an entry for each row."""
        rows = [(*first, *row) for first, row in zip(cells, self.rows, strict=True)]
        return Table.of([*columns, *self.columns], rows, self.title, self.notes)

    def transposed(self, corner: str, names: Sequence[str]) -> Table:
        """Returns the table with rows as columns; `names` are their headers, `corner` that of the first."""
        rows = [(header, *(row[number] for row in self.rows)) for number, header in enumerate(self.headers)]
        columns = [Column(corner, right=False), *(Column(name) for name in names)]
        return replace(Table.of(columns, rows), title=self.title, notes=self.notes)


def markdown(table: Table) -> str:
    """Returns title, table and notes in Markdown, with an empty line between them and none at the end."""
    lines = [table.headers, ["---"] * len(table.columns), *table.rows]
    drawn = "\n".join(f"| {' | '.join(map(cell, line))} |" for line in lines)
    return "\n\n".join([*([f"### {cell(table.title)}"] if table.title else []), drawn, *table.notes])


def html(table: Table) -> str:
    """Returns a figure in which a wide table scrolls, with the title above and the notes below."""
    caption = f"<figcaption>{_text(table.title)}</figcaption>" if table.title else ""
    head = "".join(f'<th scope="col"{_side(column)}>{_text(column.header)}</th>' for column in table.columns)
    body = "\n".join(f"<tr>{_row(table, row)}</tr>" for row in table.rows)
    label = escape(printable(table.title or "table"))
    return (
        f'<figure class="table">{caption}'
        f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">'
        f"<table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>{_notes(table)}</figure>"
    )


def _notes(table: Table) -> str:
    """Returns the notes, folded if they are many."""
    notes = "".join(f'<p class="note">{_text(note)}</p>' for note in table.notes)
    if len(table.notes) <= _UNFOLDED:
        return notes
    return f'<details><summary class="note">{len(table.notes)} notes</summary>{notes}</details>'


def _row(table: Table, row: Sequence[str]) -> str:
    """Returns the cells of a row, the first as its header."""
    cells = [f'<th scope="row"{_side(table.columns[0])}>{_text(row[0])}</th>'] if row else []
    cells += [
        f"<td{_side(column)}>{_text(text)}</td>"
        for column, text in zip(table.columns[1:], row[1:], strict=True)
    ]
    return "".join(cells)


def _side(column: Column) -> str:
    return ' class="right"' if column.right else ""


def _text(text: str) -> str:
    return escape(printable(text)).replace("\n", "<br>")
