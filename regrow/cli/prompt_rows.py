"""Reads prompts from a text: one per line, JSON lines, one JSON value, or a table."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, final

from regrow.cli.prompt_table import table
from regrow.errors import UsageError

# Fields of a sample in the output. A record's field of the same name is written as input_NAME.
OURS = ("type", "index", "prompt", "text", "tokens", "finish_reason")
KINDS = ("lines", "jsonl", "json", "csv", "tsv")
DEFAULT_FIELD = "prompt"
_BY_SUFFIX = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
}
_OTHER_FORMATS = (
    ".yaml",
    ".yml",
    ".xml",
    ".html",
    ".toml",
    ".parquet",
    ".arrow",
    ".feather",
    ".xlsx",
    ".xls",
    ".pkl",
    ".zip",
    ".pdf",
)
# Names of prompt fields in common data sets. A first line with one of them is the header of a table.
_USUAL = ("prompt", "question", "problem", "instruction", "input", "query", "text")


@final
@dataclass(frozen=True)
class Prompt:
    """A prompt, with the other fields of its record."""

    text: str
    fields: dict[str, Any] = field(default_factory=dict)  # JSON values


def rows(name: str, suffix: str, text: str, asked: str | None, kind: str) -> list[Prompt]:
    """Returns the prompts in `text`, the content of the file `name`.

    `asked`: field that holds the prompt; None means DEFAULT_FIELD. `kind`: one of KINDS, or "auto".
    Raises UsageError, with the file and the line, if the text is not of that kind or a record has no prompt.
    """
    if kind == "auto":
        kind = _kind(name, suffix, text, asked)
    if kind == "lines":
        if asked is not None:
            raise UsageError(
                f"{name} is read as one prompt per line, so it has no fields; "
                "leave out --prompt-field or give --prompts-format"
            )
        # Not str.splitlines, which also splits at characters that a prompt may contain, such as form feeds.
        return [Prompt(line) for _, line in _filled(text)]
    records = table(name, text, kind) if kind in ("csv", "tsv") else _json(name, text, kind)
    return [_prompt(where, value, asked or DEFAULT_FIELD) for where, value in records]


def _kind(name: str, suffix: str, text: str, asked: str | None) -> str:
    """Returns the kind of a text, judged by the suffix of its file or else by its content.

    Raises UsageError for an unsupported suffix, and for a .txt file that looks structured.
    """
    if suffix in _BY_SUFFIX:
        return _BY_SUFFIX[suffix]
    if suffix in _OTHER_FORMATS:
        raise UsageError(
            f"{name} has an unsupported format ({suffix}); "
            "convert it to JSON lines, CSV, or one prompt per line"
        )
    held = _held(text, asked)
    if suffix == ".txt" and held != "lines" and (held != "jsonl" or _all_json(text)):
        raise UsageError(
            f"{name} is named like plain text but looks like {held}; "
            f"choose with --prompts-format lines or {held}"
        )
    return "lines" if suffix == ".txt" else held


def _held(text: str, asked: str | None) -> str:
    """Returns the kind of a text, judged by its content alone."""
    start = text.lstrip()
    if start.startswith("{"):
        return "jsonl"
    if re.match(r'\[\s*["{]', start) or (start.startswith("[") and isinstance(_value(text), list)):
        return "json"
    return _table_held(text, asked)


def _table_held(text: str, asked: str | None) -> str:
    """Returns "tsv" or "csv" if the first line is a header that names a prompt field, otherwise "lines"."""
    header = next((line for _, line in _filled(text)), "")
    for mark, kind in (("\t", "tsv"), (",", "csv")):
        names = [part.strip().strip('"') for part in header.split(mark)]
        plain = all(re.fullmatch(r"\w[\w-]*", part) for part in names)
        if len(names) > 1 and plain and {part.lower() for part in names} & {asked or "", *_USUAL}:
            return kind
    return "lines"


def _all_json(text: str) -> bool:
    return isinstance(_value(text), dict) or all(isinstance(_value(line), dict) for _, line in _filled(text))


def _value(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _filled(text: str) -> Iterator[tuple[int, str]]:
    """Yields the lines that are not blank with their numbers (from 1), without line ends."""
    lines = ((number, line.removesuffix("\r")) for number, line in enumerate(text.split("\n"), 1))
    return ((number, line) for number, line in lines if line.strip())


def _json(name: str, text: str, kind: str) -> Iterator[tuple[str, object]]:
    """Yields records with the place where each one stands, for error messages.

    One JSON value: a list has one record per entry, and an object is one record. JSON lines have one record
    per line. Files named .json often hold JSON lines, and vice versa, so the content decides between the two.
    Raises UsageError if the text is not valid JSON.
    """
    if not text.strip():
        return
    first = next(line for _, line in _filled(text))
    # If a value spans several lines, its first line alone is not JSON. If the whole text is broken, `kind`
    # says what it was meant to be.
    whole, first_alone = _value(text) is not None, _value(first) is not None
    if (whole or not first_alone) if kind == "json" else (whole and not first_alone):
        yield from _document(name, text)
    else:
        for number, line in _filled(text):
            where = f"{name}, line {number}"
            yield where, _parse(where, line, 'each line must be an object such as {"prompt": "..."}')


def _document(name: str, text: str) -> Iterator[tuple[str, object]]:
    value = _parse(name, text, "it must be a list of texts or of objects")
    if not isinstance(value, list):
        yield name, value
    else:
        yield from ((f"{name}, entry {number}", entry) for number, entry in enumerate(value, 1))


def _parse(where: str, text: str, wanted: str) -> object:
    try:
        value: object = json.loads(text, object_pairs_hook=_object, parse_constant=_constant)
        json.dumps(value, allow_nan=False)  # 1e999 is read as infinity
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where} is not valid JSON ({error}); {wanted}") from error
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name in found if sum(name == other for other, _ in pairs) > 1)
        raise ValueError(f"the field {json.dumps(twice)} occurs twice")
    return found


def _constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _prompt(where: str, value: object, wanted: str) -> Prompt:
    """Returns the prompt of a record, which is a text or an object with the `wanted` field.

    Raises UsageError if there is no such text, or if it is empty or not valid Unicode.
    """
    fields = value if isinstance(value, dict) else {}
    text = value if isinstance(value, str) else fields.get(wanted)
    if isinstance(value, dict) and wanted not in value:
        there = ", ".join(name for name, other in value.items() if isinstance(other, str))
        hint = (
            f"name the field with --prompt-field (text fields: {there})" if there else "it has no text fields"
        )
        raise UsageError(f"{where} holds no {json.dumps(wanted)} text; {hint}")
    if not isinstance(text, str):
        raise UsageError(
            f"{where} holds no {json.dumps(wanted)} text; "
            f'it must be a text, or an object such as {{{json.dumps(wanted)}: "..."}}'
        )
    if not text.strip():
        raise UsageError(f"{where} holds an empty prompt; fill it in or take it out")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"{where} holds half a character (a lone surrogate, character {error.start + 1}); correct it"
        ) from error
    return Prompt(
        text,
        _kept(
            where, {name: other for name, other in fields.items() if (name, wanted) != ("prompt", "prompt")}
        ),
    )


def _kept(where: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields of a record with the names that they have in the output.

    Raises UsageError if two fields would get the same name.
    """
    kept = {f"input_{name}" if name in OURS else name: value for name, value in fields.items()}
    if len(kept) < len(fields):
        name = next(name for name in fields if name in OURS and f"input_{name}" in fields)
        raise UsageError(
            f'{where} has both a field "{name}" and a field "input_{name}", '
            f'but the output renames "{name}" to "input_{name}"; rename one'
        )
    return kept
