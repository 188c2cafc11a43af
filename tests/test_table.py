"""The table model, and its Markdown, HTML and terminal renderings."""

from __future__ import annotations

from html.parser import HTMLParser
from io import StringIO

import pytest
from rich.console import Console

from regrow.cli.terminal_table import terminal_table
from regrow.table import Column, Table, html, markdown

TABLE = Table.of(
    [Column("method", right=False), Column("batch", narrow=False), Column("right")],
    [["a|b", "4", "76 %\n(73 to 79)"], ["<c>", "8", "–"]],
    "Title & more",
    ["One note."],
)


class _Cells(HTMLParser):
    """Collects the texts of a table, and the classes of its header cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.classes: list[str | None] = []
        self._inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td"):
            self._inside = True
            self.rows[-1].append("")
            if len(self.rows) == 1:
                self.classes.append(dict(attrs).get("class"))
        elif tag == "br":
            self.rows[-1][-1] += "\n"

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag not in ("th", "td")

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.rows[-1][-1] += data


def test_markdown_has_title_table_and_notes_with_cells_on_one_line() -> None:
    assert markdown(TABLE) == (
        "### Title & more\n\n"
        "| method | batch | right |\n| --- | --- | --- |\n"
        "| a\\|b | 4 | 76 % (73 to 79) |\n| <c> | 8 | – |\n\n"
        "One note."
    )


def test_html_has_the_same_cells_escaped() -> None:
    text = html(TABLE)
    found = _Cells(text)
    assert found.rows == [["method", "batch", "right"], ["a|b", "4", "76 %\n(73 to 79)"], ["<c>", "8", "–"]]
    assert found.classes == [None, "right", "right"]
    assert "<c>" not in text
    assert "<figcaption>Title &amp; more</figcaption>" in text
    assert '<p class="note">One note.</p>' in text
    assert "<details>" not in text


def test_many_notes_are_folded_in_html() -> None:
    text = html(Table.of(TABLE.columns, TABLE.rows, notes=[f"note {n}." for n in range(4)]))
    assert "<summary" in text
    assert "4 notes" in text
    assert text.count("note 3.") == 1


def test_a_terminal_shows_every_cell() -> None:
    shown = StringIO()
    Console(file=shown, width=60).print(terminal_table(TABLE))
    text = shown.getvalue()
    assert all(part in text for part in ("Title & more", "a|b", "76 %", "(73 to 79)", "<c>", "batch"))
    assert max(map(len, text.splitlines())) <= 60


def test_narrow_tables_leave_out_columns_and_their_cells() -> None:
    narrow = TABLE.narrowed()
    assert narrow.headers == ("method", "right")
    assert narrow.rows[0] == ("a|b", "76 %\n(73 to 79)")
    assert (narrow.title, narrow.notes) == (TABLE.title, TABLE.notes)


def test_columns_can_be_put_before_others() -> None:
    made = TABLE.after([Column("run")], [["1"], ["2"]])
    assert made.headers == ("run", "method", "batch", "right")
    assert [row[0] for row in made.rows] == ["1", "2"]


def test_transposed_rows_are_columns() -> None:
    made = TABLE.transposed("", ["run 1", "run 2"])
    assert made.headers == ("", "run 1", "run 2")
    assert made.rows[1] == ("batch", "4", "8")


def test_a_row_with_a_cell_too_few_is_no_table() -> None:
    with pytest.raises(ValueError, match="a row has 1 cells for 2 columns"):
        Table.of([Column("a"), Column("b")], [["1"]])
