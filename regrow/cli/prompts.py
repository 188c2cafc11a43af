"""Where prompts come from: options, a file, standard input."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from regrow.errors import UsageError

STDIN = "-"


def read(given: Sequence[str], source: str | None) -> list[str]:
    """The prompts of `--prompt`, then those of `--prompts`; with neither, those of a piped standard input.

    Raises UsageError where there are none, and for a file that cannot be read.
    """
    if source is None and not given and not sys.stdin.isatty():
        source = STDIN
    prompts = [*given, *(() if source is None else _load(source))]
    if not prompts:
        raise UsageError("there are no prompts: give --prompt TEXT or --prompts FILE, or pipe one prompt a line into standard input")
    return prompts


def _load(source: str) -> Iterator[str]:
    name = "standard input" if source == STDIN else source
    try:
        data = sys.stdin.buffer.read() if source == STDIN else Path(source).read_bytes()
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"{name} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{name} is not UTF-8 text (byte {error.start}); convert it") from error
    # A line ends at \n alone: prompts may hold the other characters that str.splitlines takes for line ends.
    lines = ((number, line.removesuffix("\r")) for number, line in enumerate(text.split("\n"), 1))
    filled = ((number, line) for number, line in lines if line.strip())
    if not _is_jsonl(source, text):
        return (line for _, line in filled)
    return (_prompt(f"{name}, line {number}", line) for number, line in filled)


def _is_jsonl(source: str, text: str) -> bool:
    suffix = Path(source).suffix.lower()
    return suffix == ".jsonl" or (suffix != ".txt" and text.lstrip().startswith("{"))


def _prompt(where: str, line: str) -> str:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise UsageError(f'{where} is not valid JSON ({error}); each line must be an object such as {{"prompt": "..."}}') from error
    prompt = value.get("prompt") if isinstance(value, dict) else None
    if not isinstance(prompt, str):
        raise UsageError(f'{where} holds no "prompt" text; each line must be an object such as {{"prompt": "..."}}')
    return prompt
