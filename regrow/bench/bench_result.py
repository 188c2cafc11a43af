"""Results of a benchmark, their JSON file, and the comparison with an earlier result."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Self, final

from regrow.errors import RegrowError, UsageError
from regrow.paper_results import SHAPES, shape_of, speeds

# How the tables of accuracies call the methods that a benchmark calls by their plain names.
TITLES: Final = {"dense": "dense", "griffin": "GRIFFIN", "teal": "TEAL", "bap": "BAP"}


@final
@dataclass(frozen=True)
class Spread:
    """Median, minimum and maximum over several runs."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        return cls(statistics.median(values), min(values), max(values))


@final
@dataclass(frozen=True)
class BenchRow:
    """Results of one contender in one setting."""

    model: str
    label: str
    rows: int
    prompt: int
    new: int
    tokens_per_second: Spread  # decode steps only
    ratio: Spread  # speedup over dense decoding through Regrow's loop, in the same round
    ms: dict[str, float]  # medians: prompt (all of it), dense, observe, sparse (one step), refresh (one mask)
    bytes_per_step: float  # that a decode step has to read: mean over a period
    bound: float  # bytes of a dense step / `bytes_per_step`
    bandwidth_share: float  # bytes read a second / memory bandwidth
    turnover: float | None  # share of the retained neurons that a refresh replaced
    sparsity: float | None = None  # actual one, of a method that decides by thresholds; else its target holds


@final
@dataclass(frozen=True)
class Lost:
    """A contender that was not measured, because it or the baseline did not fit in memory."""

    model: str
    label: str
    rows: int
    prompt: int
    new: int


@final
@dataclass(frozen=True)
class Result:
    """All results of a benchmark, and how they were made."""

    made_with: dict[str, str]  # versions, device, commit
    bandwidth: dict[str, float]  # bytes a second
    settings: dict[str, Any]
    rows: list[BenchRow] = field(default_factory=list)
    lost: list[Lost] = field(default_factory=list)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads a result file.

        Raises UsageError if the file cannot be read, RegrowError if it holds something else.
        """
        if path.exists() and not path.is_file():  # reading a pipe without a writer would block forever
            raise UsageError(f"{path} is not a regular file; give a file that `regrow bench --out` wrote")
        try:
            found = _today(json.loads(path.read_bytes()))
            rows = [_row(row) for row in found["rows"]]
            return cls(
                found["made_with"],
                found["bandwidth"],
                found["settings"],
                rows,
                [Lost(**one) for one in found["lost"]],
            )
        except OSError as error:
            raise UsageError(
                f"{path} cannot be read: {error.strerror}; give a file that `regrow bench --out` wrote"
            ) from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise RegrowError(
                f"{path} is not a result of `regrow bench`; give a file that `regrow bench --out` wrote"
            ) from error


def _today(found: dict[str, Any]) -> dict[str, Any]:
    """Returns the content of a result file. The first files had other fields and did not name settings."""
    if set(found) != {"bw", "device", "rows"}:
        return found
    made_with = {"device": found["device"]}
    return {
        "made_with": made_with,
        "bandwidth": found["bw"],
        "settings": {},
        "rows": found["rows"],
        "lost": [],
    }


def _row(found: Mapping[str, Any]) -> BenchRow:
    """Makes a row from JSON values. Raises TypeError or ValueError if one is missing, unknown or invalid."""
    row = BenchRow(**{**found, **{name: Spread(**found[name]) for name in ("tokens_per_second", "ratio")}})
    if not all(isinstance(name, str) for name in (row.model, row.label)) or not all(
        type(size) is int for size in (row.rows, row.prompt)
    ):
        raise TypeError("a row does not say what it is of")
    if not all(isinstance(value, int | float) and value > 0 for value in asdict(row.ratio).values()):
        raise TypeError("a ratio is not a number")
    return row


@final
@dataclass(frozen=True)
class Reference:
    """Ratios to dense of another result, by (model, label, batch size, prompt tokens).

    None in the place of the prompt tokens stands for prompts of every length.
    """

    name: str
    ratios: Mapping[tuple[str, str, int, int | None], float]

    @classmethod
    def of(cls, path: Path) -> Self:
        """Reads the ratios of a result file. Raises UsageError or RegrowError if it is no result."""
        rows = Result.load(path).rows
        return cls(
            path.name, {(row.model, row.label, row.rows, row.prompt): row.ratio.median for row in rows}
        )

    def ratio(self, row: BenchRow) -> float | None:
        """Returns the ratio for the same contender and setting; None if the reference has none.

        A model of the paper may stand for its shape.
        """
        models = dict.fromkeys((row.model, shape_of(row.model)))
        keys = ((model, row.label, row.rows, prompt) for model in models for prompt in (row.prompt, None))
        return next((self.ratios[key] for key in keys if key in self.ratios), None)


# The paper does not state the lengths or the precision.
PAPER = Reference(
    "the paper",
    {
        (SHAPES[speed.model], label, speed.batch_size, None): speed.ratio
        for label, title in TITLES.items()
        for speed in speeds()
        if speed.method == title
    },
)
