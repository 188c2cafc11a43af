"""Records: one JSON line per batch, written once and graded later. Every committed accuracy comes from them.

The samples of a batch share a mask, so an experiment fixes which samples form a batch. Therefore the unit of
work is a batch, and a file holds the batches of one configuration. Standard library only.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import islice
from typing import Any, Self, final

from regrow.counters import Counters
from regrow.run_config import FORMAT, FORMATS, RunConfig, canonical


@final
@dataclass(frozen=True)
class Record:
    """One complete batch. Entry i of every list belongs to prompt i."""

    config: RunConfig
    batch: int  # from 0
    ids: tuple[str, ...]
    prompts_sha256: str  # of the token ids of the prompts, without padding
    tokens: tuple[tuple[int, ...], ...]  # new tokens of each row, its EOS included
    texts: tuple[str, ...]  # decoded tokens without special tokens, so that grading needs no tokenizer
    finish_reasons: tuple[str, ...]
    counters: Mapping[str, Any]  # counters of the session for this batch
    versions: Mapping[str, str]
    seconds: float  # wall clock of the whole batch
    golds: tuple[str, ...] | None = None  # gold answers; None in records of formats 2 and 3

    def __post_init__(self) -> None:
        """Raises ValueError if no batch can have produced this record."""
        if type(self.batch) is not int or not 0 <= self.batch < self.config.batches:
            raise ValueError(f"batch {self.batch} of {self.config.batches}")
        if not len(self.ids) == len(self.tokens) == len(self.texts) == len(self.finish_reasons) > 0:
            raise ValueError("ids, tokens, texts and finish_reasons differ in length")
        if not all(
            type(text) is str for text in self.ids + self.texts + self.finish_reasons + (self.prompts_sha256,)
        ):
            raise ValueError("ids, texts, finish_reasons and prompts_sha256 must be text")
        if (self.golds is None) != (self.config.format < FORMAT):
            raise ValueError(f"golds belong to records of format {FORMAT}, and to no others")
        if self.golds is not None and (
            len(self.golds) != len(self.ids) or not all(type(gold) is str for gold in self.golds)
        ):
            raise ValueError("golds must be texts, one for each prompt")
        if not all(type(token) is int for row in self.tokens for token in row):
            raise ValueError("tokens must be integers")
        if type(self.versions) is not dict or not all(
            type(version) is str for version in self.versions.values()
        ):
            raise ValueError("versions must be texts by name")
        if type(self.seconds) not in (int, float):
            raise ValueError("seconds must be a number")
        if type(self.counters) is not dict:
            raise ValueError("counters must be an object")
        self.counted  # noqa: B018 - raises ValueError for bad counters

    @cached_property
    def counted(self) -> Counters:
        """The counters. Lengths and finish reasons are taken from the rows of the record."""
        lengths, ends = [len(row) for row in self.tokens], list(self.finish_reasons)
        return replace(Counters.from_dict(self.counters), tokens=lengths, finish_reasons=ends)

    def line(self) -> bytes:
        """Returns the record as one line of JSON, newline included."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.golds is None:
            del values["golds"]
        body = canonical(values | {"config": self.config.to_dict(), "key": self.config.key})
        return b'{"format":%d,%s\n' % (self.config.format, body[1:].encode())

    @classmethod
    def parse(cls, line: bytes) -> Self:
        """Reads a record from its line. Raises ValueError unless the line is a complete, unchanged record.

        JSONDecodeError and UnicodeDecodeError are ValueErrors, and may be raised too.
        """
        values = _loads(line)
        written = values.pop("format", None) if type(values) is dict else None
        if type(written) is not int or written not in FORMATS:
            raise ValueError(f"not a record of format {' or '.join(map(str, FORMATS))}")
        key = values.pop("key", None)
        try:
            config = RunConfig.from_dict(values.pop("config"), written)
            if key != config.key:
                raise ValueError("the settings do not match their key")
            if type(values.get("golds", [])) is not list:
                raise ValueError("golds must be texts, one for each prompt")
            texts = ("ids", "texts", "finish_reasons", *(["golds"] if "golds" in values else []))
            values |= {name: tuple(values[name]) for name in texts}
            tokens = tuple(tuple(row) for row in values.pop("tokens"))
            return cls(config=config, tokens=tokens, **values)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"fields are missing, unknown or of another type: {error}") from error


def _loads(line: bytes) -> Any:
    """Parses JSON. Raises ValueError for anything else, also for NaN, infinity and too deep nesting."""
    try:
        return json.loads(line, parse_constant=_no_number)
    except RecursionError as error:
        raise ValueError("its JSON is nested too deeply") from error


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


@final
@dataclass(frozen=True)
class Mark:
    """The grade of one problem, by two scores. A grader with one score gives it twice."""

    family: str
    right: bool  # by the strict score
    paper: bool  # by the lenient score, which stands for the evaluation framework of the paper


@final
@dataclass(frozen=True)
class Grade:
    """The marks of one prompt, which may ask several problems or none."""

    marks: tuple[Mark, ...]
    timed_out: bool = False  # a score was not finished within the limits of the judge, and counts as wrong

    @property
    def right(self) -> int:
        return sum(mark.right for mark in self.marks)

    @property
    def paper(self) -> int:
        return sum(mark.paper for mark in self.marks)

    @property
    def total(self) -> int:
        return len(self.marks)


@final
@dataclass(frozen=True)
class Graded:
    """A record file, with the grade of every prompt in it in the order of the task."""

    records: tuple[Record, ...]  # at least one, in order of batch
    grades: tuple[Grade, ...]
    missing: tuple[int, ...]  # batches that were not recorded; the accuracy is that of the others

    @property
    def config(self) -> RunConfig:
        return self.records[0].config

    @property
    def batches(self) -> tuple[tuple[Grade, ...], ...]:
        """The grades of each batch of prompts. With several samples, those of one batch are together."""
        found: dict[int, tuple[Grade, ...]] = {}
        for place, grades in self._placed():
            found[place] = found.get(place, ()) + grades
        return tuple(found.values())

    @property
    def prompts(self) -> tuple[tuple[Grade, ...], ...]:
        """The grades of the samples of each prompt."""
        found: dict[tuple[int, int], tuple[Grade, ...]] = {}
        for place, grades in self._placed():
            for row, grade in enumerate(grades):
                found[place, row] = (*found.get((place, row), ()), grade)
        return tuple(found.values())

    def _placed(self) -> Iterator[tuple[int, tuple[Grade, ...]]]:
        """Yields, for each record, the number of its batch within a sample and its grades."""
        grades = iter(self.grades)
        for record in self.records:
            yield record.batch % self.config.batches_of_a_sample, tuple(islice(grades, len(record.ids)))
