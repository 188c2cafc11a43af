"""Reads the records of a CSV or TSV text. Its first line names the fields."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from regrow.errors import UsageError

_LONGEST_FIELD = 2**31 - 1  # characters; the default of the csv module is 131,072


def table(name: str, text: str, kind: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yields each row that is not blank as (file and line, record).

    Raises UsageError if the text is not a table, if a row does not fit the header, or if the header names a
    field twice.
    """
    csv.field_size_limit(_LONGEST_FIELD)
    lines = _rows(name, text, "\t" if kind == "tsv" else _delimiter(text))
    _, header = next(lines, (0, []))
    twice = [field for field in header if header.count(field) > 1]
    if twice:
        raise UsageError(f"{name} names the field {twice[0]!r} twice in its header; rename one")
    for number, row in lines:
        if len(row) != len(header):
            raise UsageError(
                f"{name}, line {number} has {len(row)} fields, and the header has {len(header)}; "
                "correct the line"
            )
        yield f"{name}, line {number}", dict(zip(header, row, strict=True))


def _delimiter(text: str) -> str:
    """Returns the delimiter of the header.

    Spreadsheets write semicolons or tabs in countries where the comma is the decimal mark.
    """
    header = next((line for line in text.splitlines() if line.strip()), "")
    return max(",;\t", key=lambda mark: len(next(csv.reader([header], delimiter=mark), [])))


def _rows(name: str, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yields rows as (number of its first line, fields). Raises UsageError if the text is not a table."""
    reader, begins = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True), 1
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise UsageError(
                f"{name}, line {begins} is not a valid table row ({error}); correct it"
            ) from error
        if len(row) > 1 or any(field.strip() for field in row):
            yield begins, row
        begins = reader.line_num + 1
