"""Reads rows of questions from files and from the Hugging Face hub."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Final, final

from regrow.errors import UsageError, said

KINDS: Final = (".jsonl", ".csv", ".json")
Row = Mapping[str, Any]


@final
@dataclass(frozen=True)
class Rows:
    """The rows of a file or of a dataset of the hub, in order."""

    source: str  # the file, or the name on the hub
    rows: Sequence[Row]
    sha256: str  # of the file's bytes; of the rows' canonical JSON for the hub


def read_file(path: Path) -> Rows:
    """Reads a file with one question a row: JSON lines, a JSON list of objects, or CSV with a header.

    Raises UsageError if the file cannot be read or is none of these.
    """
    kind = path.suffix.lower()
    if path.is_dir():
        raise UsageError(f"{path} is a directory; give a file with one question a row")
    if kind not in KINDS:
        raise UsageError(
            f"{path} is of a kind that is not read; give a {', '.join(KINDS[:-1])} or .json file"
        )
    try:
        if path.exists() and not path.is_file():
            raise UsageError(f"{path} is not a regular file; give a {kind} file")
        data = path.read_bytes()
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text (byte {error.start}); convert it") from error
    rows = {".jsonl": _json_lines, ".json": _json, ".csv": _csv}[kind](path, text)
    if not rows:
        raise UsageError(f"{path} holds no rows; give a file with one question a row")
    return Rows(str(path), rows, hashlib.sha256(data).hexdigest())


def read_hub(dataset: str, configuration: str | None, split: str) -> Rows:
    """Downloads a split of a dataset from the hub, or takes it from the cache of an earlier download.

    Raises UsageError if that fails.
    """
    import datasets

    datasets.disable_progress_bars()
    try:
        found = datasets.load_dataset(dataset, configuration, split=split)
        rows = [dict(row) for row in found]
    except Exception as error:  # the library raises errors of its own and of its many dependencies
        raise UsageError(
            f"{dataset} cannot be loaded from the hub ({said(error)}); "
            "give --data-dir with a folder that holds it"
        ) from error
    lines = json.dumps(rows, sort_keys=True, separators=(",", ":"), default=str)
    return Rows(dataset, rows, hashlib.sha256(lines.encode()).hexdigest())


def text_field(rows: Rows, number: int, field: str, hint: str = "") -> str:
    """Returns a field of row `number` (from 1) as text; numbers are written as Python writes them.

    Raises UsageError if the row lacks the field, or if it is neither text nor a number, or is empty. `hint`
    says what to do if the field is missing.
    """
    row = rows.rows[number - 1]
    if field not in row:
        names = ", ".join(map(str, row))
        what = f"{rows.source}, row {number} has no field {field!r}"
        raise UsageError(f"{what}; its fields are {names}{hint and f'; {hint}'}")
    value = row[field]
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UsageError(
            f"{rows.source}, row {number}: {field} is {json.dumps(value, default=str)[:40]}, "
            "which is neither text nor a number; correct it"
        )
    text = str(value)
    if not text.strip():
        raise UsageError(f"{rows.source}, row {number}: {field} is empty; fill it in or remove the row")
    return text


def _json_lines(path: Path, text: str) -> list[Row]:
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    return [
        _object(f"{path}, line {number}", _loads(f"{path}, line {number}", line)) for number, line in lines
    ]


def _json(path: Path, text: str) -> list[Row]:
    value = _loads(str(path), text)
    if not isinstance(value, list):
        raise UsageError(f"{path} is not a list of objects; write [{{...}}, ...], or JSON lines (.jsonl)")
    return [_object(f"{path}, entry {number}", entry) for number, entry in enumerate(value, 1)]


def _csv(path: Path, text: str) -> list[Row]:
    reader = csv.DictReader(StringIO(text, newline=""), strict=True)
    try:
        rows = list(reader)
    except csv.Error as error:
        raise UsageError(f"{path} is not valid CSV ({error}, line {reader.line_num}); correct it") from error
    for number, row in enumerate(rows, 1):
        if None in row or None in row.values():
            raise UsageError(
                f"{path}, row {number} has more or fewer cells than the header; "
                "put cells that hold commas or line breaks in double quotes"
            )
    return list(rows)


def _loads(where: str, text: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"column {error.colno}" if "\n" not in text else f"line {error.lineno}, column {error.colno}"
        raise UsageError(f"{where} is not valid JSON ({error.msg} at {place}); correct it") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where} is not valid JSON ({error}); correct it") from error


def _object(where: str, value: object) -> Row:
    if not isinstance(value, dict):
        raise UsageError(f"{where} is not an object with fields; correct it")
    return value
