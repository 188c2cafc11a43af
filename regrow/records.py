"""What every committed accuracy goes through: one JSON line per fixed batch, written once and graded later.

Who is in a batch is part of an experiment whose mask the batch shares, so the unit of work is a batch, and a file holds the batches of
one configuration. Standard library only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from itertools import islice
from typing import Any, Self, final

FORMAT = 2  # raise it when the meaning of a field changes
COUNTERS = (
    "decode_steps",
    "sparse_steps",
    "weights_kept",
    "weights_dense",
    "bytes_read",
    "ffn_bytes_read",
    "refresh_bytes",
    "prefill_seconds",
    "decode_seconds",
)  # what a record's counters hold at least


def canonical(value: object) -> str:
    """The one way a JSON value is written here. Raises ValueError for NaN and infinity, which are not JSON."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: object) -> str:
    """sha256 of the canonical JSON of `value`, in hexadecimal."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


@final
@dataclass(frozen=True)
class RunConfig:
    """Everything that decides the tokens of a run. Two runs are the same experiment if their keys are the same."""

    model: str
    fingerprint: str  # of the weights
    dtype: str
    device: str
    method: str
    params: Mapping[str, Any]  # of the method, JSON values
    skip_layers: tuple[int, ...]  # left dense
    task: str
    task_sha256: str  # of ids, prompts and golds, in order
    order: str  # "dataset"
    limit: int  # prompts taken, from the first
    batch_size: int
    max_new_tokens: int
    sampling: str  # "greedy"
    chat: bool  # the prompts went through the model's chat template

    @property
    def key(self) -> str:
        return digest(asdict(self))

    @property
    def batches(self) -> int:
        return -(-self.limit // self.batch_size)

    def differences(self, other: RunConfig) -> str:
        """The settings in which `other` differs, as `name mine/theirs`."""
        mine, theirs = asdict(self), asdict(other)
        shown = [f"{name} {_short(mine[name])}/{_short(theirs[name])}" for name in mine if canonical(mine[name]) != canonical(theirs[name])]
        return ", ".join(shown)


def _short(value: object) -> str:
    text = canonical(value)
    return text[:12] + "…" if isinstance(value, str) and len(text) > 60 else text


@final
@dataclass(frozen=True)
class Record:
    """One batch, complete: row i of every list belongs to prompt i."""

    config: RunConfig
    batch: int  # from 0
    ids: tuple[str, ...]
    prompts_sha256: str  # of the token ids of the prompts, without padding
    tokens: tuple[tuple[int, ...], ...]  # new tokens of each row, its EOS included
    texts: tuple[str, ...]  # the same decoded, without special tokens: grading needs no tokenizer
    finish_reasons: tuple[str, ...]
    counters: Mapping[str, Any]  # of the session, summed over the batch
    versions: Mapping[str, str]
    seconds: float  # wall clock of the whole batch

    def __post_init__(self) -> None:
        """Raises ValueError for a record that no batch could have left."""
        if not 0 <= self.batch < self.config.batches:
            raise ValueError(f"batch {self.batch} of {self.config.batches}")
        if not len(self.ids) == len(self.tokens) == len(self.texts) == len(self.finish_reasons) > 0:
            raise ValueError("ids, tokens, texts and finish_reasons differ in length")
        if not all(type(text) is str for text in self.ids + self.texts + self.finish_reasons):
            raise ValueError("ids, texts and finish_reasons must be text")
        if not all(type(token) is int for row in self.tokens for token in row):
            raise ValueError("tokens must be integers")
        lacking = [name for name in COUNTERS if type(self.counters.get(name)) not in (int, float)]
        if lacking:
            raise ValueError(f"no number for {', '.join(lacking)}")

    def line(self) -> bytes:
        """The record as it is written, with its newline."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        body = canonical(values | {"config": asdict(self.config), "key": self.config.key})
        return b'{"format":%d,%s\n' % (FORMAT, body[1:].encode())

    @classmethod
    def parse(cls, line: bytes) -> Self:
        """Raises ValueError (JSONDecodeError and UnicodeDecodeError are) for anything but a whole, untouched record."""
        values = json.loads(line)
        if type(values) is not dict or values.pop("format", None) != FORMAT:
            raise ValueError(f"not a record of format {FORMAT}")
        key = values.pop("key", None)
        try:
            settings = values.pop("config")
            config = RunConfig(**settings | {"skip_layers": tuple(settings["skip_layers"])})
            if key != config.key:
                raise ValueError("the settings do not match their key")
            values |= {name: tuple(values[name]) for name in ("ids", "texts", "finish_reasons")}
            tokens = tuple(tuple(row) for row in values.pop("tokens"))
            return cls(config=config, tokens=tokens, **values)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"fields are missing, unknown or of another type: {error}") from error


@final
@dataclass(frozen=True)
class Mark:
    """One problem, right or wrong."""

    family: str
    right: bool


@final
@dataclass(frozen=True)
class Grade:
    """The marks of one prompt, which may ask several problems."""

    marks: tuple[Mark, ...]

    @property
    def right(self) -> int:
        return sum(mark.right for mark in self.marks)

    @property
    def total(self) -> int:
        return len(self.marks)


@final
@dataclass(frozen=True)
class Graded:
    """A record file and the grade of every prompt in it, in the task's order."""

    records: tuple[Record, ...]  # at least one, by batch
    grades: tuple[Grade, ...]
    missing: tuple[int, ...]  # batches not recorded: the accuracy is that of the others

    @property
    def config(self) -> RunConfig:
        return self.records[0].config

    @property
    def batches(self) -> tuple[tuple[Grade, ...], ...]:
        """The grades of each record."""
        grades = iter(self.grades)
        return tuple(tuple(islice(grades, len(record.ids))) for record in self.records)
