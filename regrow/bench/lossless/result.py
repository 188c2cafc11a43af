"""Results of the benchmark of lossless decoding, and their JSON file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self, final

from regrow.bench.bench_result import Spread
from regrow.errors import RegrowError, UsageError


@final
@dataclass(frozen=True)
class LosslessRow:
    """Results of one draft, or of dense decoding, at one batch size."""

    model: str
    label: str
    rows: int
    prompt: int  # tokens of the longest prompt
    new: int  # new tokens of a row at most
    tokens_per_second: Spread  # after the prompt, all rows together
    ratio: Spread  # speedup over dense decoding in the same round
    equal: float  # share of the tokens that dense decoding gave as well, at the same place
    agreement: float | None  # given chance that a draft is right; None: the draft's own tokens
    drafted: int  # drafts that were checked, over all measured runs
    kept: int  # drafts that were kept
    passes: int  # dense passes after the prompt, over all measured runs
    tokens: int  # new tokens without the first of each row, over all measured runs
    costs: Mapping[str, Any]  # seconds of passes that windows were chosen by (`Costs.to_dict`); {} for dense

    @property
    def tokens_per_pass(self) -> float:
        """New tokens of a row for each dense pass."""
        return self.tokens / self.rows / self.passes if self.passes else 0.0

    @property
    def kept_share(self) -> float | None:
        """Share of the drafts that were kept."""
        return self.kept / self.drafted if self.drafted else None


@final
@dataclass(frozen=True)
class LosslessResult:
    """All results, and how they were made."""

    made_with: dict[str, str]  # versions, device, commit
    settings: dict[str, Any]
    rows: list[LosslessRow] = field(default_factory=list)

    def to_json(self) -> str:
        return json.dumps({"lossless": asdict(self)}, indent=2)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads a result file. Raises UsageError if it cannot be read, RegrowError if it is no result."""
        try:
            found = json.loads(path.read_bytes())["lossless"]
            rows = [
                LosslessRow(
                    **{**row, **{name: Spread(**row[name]) for name in ("tokens_per_second", "ratio")}}
                )
                for row in found["rows"]
            ]
            return cls(found["made_with"], found["settings"], rows)
        except OSError as error:
            raise UsageError(
                f"{path} cannot be read: {error.strerror}; "
                "give a file that `regrow bench --lossless --out` wrote"
            ) from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise RegrowError(
                f"{path} is not a result of `regrow bench --lossless`; "
                "give a file that `regrow bench --lossless --out` wrote"
            ) from error
