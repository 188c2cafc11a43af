"""Reads a calibration text as sequences of token ids."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
from torch import Tensor

from regrow.bundled.problems import exercise
from regrow.errors import UsageError
from regrow.models import BUNDLED, Loaded

C4: Final = ("allenai/c4", "en/c4-train.00000-of-01024.json.gz")
_JSON_LINES: Final = (".jsonl", ".ndjson")
_OTHERS: Final = (
    ".json",
    ".csv",
    ".tsv",
    ".tab",
    ".yaml",
    ".yml",
    ".xml",
    ".html",
    ".gz",
    ".parquet",
    ".arrow",
    ".pdf",
    ".zip",
)
SIZES: Final = (1, 2, 3, 4, 5, 6)  # possible numbers of problems in a generated exercise


@final
@dataclass(frozen=True)
class Text:
    """Sequences of token ids from one text, each [T], on the model's device."""

    source: str
    sequences: list[Tensor]

    @property
    def tokens(self) -> int:
        return sum(len(ids) for ids in self.sequences)


def sequences(loaded: Loaded, path: Path | None, count: int, length: int) -> Text:
    """Returns `count` sequences of `length` tokens, or of the model's context length if that is smaller.

    With a file, its documents are joined by the EOS and cut into sequences. A document is the "text" field of
    a line in a .jsonl or .ndjson file, or a whole plain-text file. Without a file, the bundled model gets
    generated exercises, one conversation per sequence, until they hold as many tokens in total; other models
    get C4 from the hub. Raises UsageError if a text cannot be read or is too short.
    """
    length = length if loaded.context is None else min(length, loaded.context)
    if path is None and loaded.name == BUNDLED:
        return Text("generated exercises", list(_conversations(loaded, count * length)))
    source = "/".join(C4) if path is None else str(path)
    documents = _c4() if path is None else _documents(path)
    windows = list(_windows(loaded, documents, count, length))
    if len(windows) < count:
        raise UsageError(
            f"{source} gives {len(windows)} sequences of {length} tokens, and {count} are asked for; "
            "give more text, or lower --sequences or --length"
        )
    return Text(source, windows)


def _conversations(loaded: Loaded, tokens: int) -> Iterator[Tensor]:
    """Yields prompt and solution of exercises that are in neither the training nor the held-out set."""
    tokenizer, number = loaded.tokenizer, 0
    while tokens > 0:
        found = exercise(f"calibration-{number}", SIZES)
        message = [{"role": "user", "content": found.prompt}]
        prompt: Any = tokenizer.apply_chat_template(
            message, tokenize=True, add_generation_prompt=True, return_dict=True
        )
        answer = tokenizer(found.solution, add_special_tokens=False)["input_ids"]
        ids = [*prompt["input_ids"], *answer, tokenizer.eos_token_id][: loaded.context]
        yield torch.tensor(ids, device=loaded.model.device)
        number, tokens = number + 1, tokens - len(ids)


def _windows(loaded: Loaded, documents: Iterable[str], count: int, length: int) -> Iterator[Tensor]:
    held: list[int] = []
    eos = loaded.tokenizer.eos_token_id
    for document in documents:
        held += loaded.tokenizer(document)["input_ids"]
        held += [] if eos is None else [eos]
        while len(held) >= length and count:
            yield torch.tensor(held[:length], device=loaded.model.device)
            held, count = held[length:], count - 1
        if not count:
            return


def read(path: Path) -> bytes:
    """Returns the content of a regular file. Raises UsageError if the file cannot be read.

    Pipes are refused, because a comparison reads its text more than once.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise UsageError(f"{path} is not a regular file; save the text in one")
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error


def _documents(path: Path) -> Iterator[str]:
    try:
        text = read(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text (byte {error.start}); convert it") from error
    if path.suffix.lower() not in _JSON_LINES:
        _refuse_structured(path, text)
        yield text
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield _field(f"{path}, line {number}", line)


def _refuse_structured(path: Path, text: str) -> None:
    """Raises UsageError for other formats: read as plain text, their markup and keys would count as words."""
    remedy = 'make it plain text, or JSON lines with a "text" field (.jsonl)'
    if path.suffix.lower() in _OTHERS:
        raise UsageError(f"{path} is of a kind that is not read ({path.suffix}); {remedy}")
    lines = [line for line in text.split("\n") if line.strip()]
    if text.lstrip().startswith(("{", "[")) and (_is_json(text) or all(map(_is_json, lines))):
        raise UsageError(f"{path} holds JSON and would be read as plain text; {remedy}")


def _is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict | list)
    except (ValueError, RecursionError):
        return False


def _c4() -> Iterator[str]:
    try:
        path = hf_hub_download(*C4, repo_type="dataset")
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise UsageError(
            f"C4 cannot be downloaded from the hub ({str(error).splitlines()[0]}); "
            "give a text of your own with --text FILE"
        ) from error
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            yield _field(f"{path}, line {number}", line)


def _field(where: str, line: str) -> str:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f'{where} is not valid JSON ({error}); each line must be an object such as {{"text": "..."}}'
        ) from error
    text = value.get("text") if isinstance(value, dict) else None
    if not isinstance(text, str):
        raise UsageError(f'{where} holds no "text"; each line must be an object such as {{"text": "..."}}')
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"{where} holds half a character ({text[error.start]!a}); repair the text"
        ) from error
    return text
