"""Reads prompts from options, a file or standard input."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from regrow.cli import prompt_rows
from regrow.cli.prompt_rows import Prompt
from regrow.cli.prompt_text import decode
from regrow.errors import UsageError

STDIN = "-"


def read(
    given: Sequence[str], source: str | None, field: str | None = None, kind: str = "auto"
) -> list[Prompt]:
    """Returns the prompts of `--prompt`, then those of `--prompts`. Without both, reads piped standard input.

    `field`: field that holds the prompt in structured files; None means "prompt". `kind`: one of
    prompt_rows.KINDS, or "auto". Raises UsageError if there are no prompts, or if the file cannot be read or
    is not of that kind.
    """
    if kind not in ("auto", *prompt_rows.KINDS):
        raise UsageError(
            f"unknown --prompts-format {kind!r}; choose one of auto, {', '.join(prompt_rows.KINDS)}"
        )
    prompts = [_option(number, text) for number, text in enumerate(given, 1)]
    piped = source is None and not given and sys.stdin is not None and not sys.stdin.isatty()
    if source is not None or piped:
        found = _load(source or STDIN, field, kind)
        if not found and not piped:
            raise UsageError(f"{_name(source or STDIN)} holds no prompts; add some, or leave it out")
        prompts += found
    elif field is not None or kind != "auto":
        raise UsageError(
            "--prompt-field and --prompts-format are for --prompts FILE; add --prompts, or leave them out"
        )
    if not prompts:
        raise UsageError(
            "there are no prompts: give --prompt TEXT or --prompts FILE, "
            "or pipe one prompt per line into standard input"
        )
    return prompts


def _option(number: int, text: str) -> Prompt:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        with suppress(UnicodeError):  # in an ASCII locale, UTF-8 bytes arrive as lone surrogates
            return Prompt(os.fsencode(text).decode())
        raise UsageError(
            f"--prompt number {number} is not valid UTF-8 text (character {error.start + 1}); correct it"
        ) from error
    return Prompt(text)


def _load(source: str, field: str | None, kind: str) -> list[Prompt]:
    name = _name(source)
    try:
        data = _bytes(source)
    except OSError as error:
        raise UsageError(f"{name} cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # the name holds a null byte
        raise UsageError(f"{source!r} is not a valid file name: {error}") from error
    path = Path("" if source == STDIN else source)
    suffix = path.with_suffix("").suffix if path.suffix.lower() == ".gz" else path.suffix
    return prompt_rows.rows(name, suffix.lower(), decode(name, data), field, kind)


def _bytes(source: str) -> bytes:
    if source != STDIN:
        return Path(source).read_bytes()
    return b"" if sys.stdin is None else sys.stdin.buffer.read()


def _name(source: str) -> str:
    return "standard input" if source == STDIN else source
