"""Where prompts come from: options, a file, standard input."""

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
    """The prompts of `--prompt`, then those of `--prompts`; with neither, those of a piped standard input.

    `field` holds the prompt in structured files, by default "prompt"; `kind` is one of prompt_rows.KINDS, or "auto". Raises UsageError
    where there are no prompts, and for a file that cannot be read or does not hold what its kind says.
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
            raise UsageError(f"{_name(source or STDIN)} holds no prompts; put some in, or leave it out")
        prompts += found
    elif field is not None or kind != "auto":
        raise UsageError(
            "--prompt-field and --prompts-format are for --prompts FILE; add it, or leave them out"
        )
    if not prompts:
        raise UsageError(
            "there are no prompts: give --prompt TEXT or --prompts FILE, or pipe one prompt a line into standard input"
        )
    return prompts


def _option(number: int, text: str) -> Prompt:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        with suppress(UnicodeError):  # in a locale of ASCII, the bytes of UTF-8 come as lone surrogates
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
    except ValueError as error:  # a name with a null byte in it
        raise UsageError(f"{source!r} is no file name: {error}") from error
    path = Path("" if source == STDIN else source)
    suffix = path.with_suffix("").suffix if path.suffix.lower() == ".gz" else path.suffix
    return prompt_rows.rows(name, suffix.lower(), decode(name, data), field, kind)


def _bytes(source: str) -> bytes:
    if source != STDIN:
        return Path(source).read_bytes()
    return b"" if sys.stdin is None else sys.stdin.buffer.read()


def _name(source: str) -> str:
    return "standard input" if source == STDIN else source
