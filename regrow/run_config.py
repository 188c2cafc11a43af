"""Everything that decides the tokens of a run, as a value with a key. Standard library only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Self, final

FORMAT = 3  # raise it when the meaning of a field changes
# Format 2 did not say what stands between a prompt and its tokens. It is read, graded and tabulated, but no run goes on in it.
FORMATS = (2, FORMAT)
_SINCE_3 = (
    "tokenizer_sha256",
    "chat_template_sha256",
    "prompts_sha256",
    "padding",
    "attention",
    "generation_config",
)


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
    # None in a record of format 2, which does not say.
    tokenizer_sha256: str | None = None  # of its files
    chat_template_sha256: str | None = None  # empty without a template
    prompts_sha256: str | None = None  # of the token ids of all prompts, in order
    padding: str | None = None  # "left"
    attention: str | None = None  # the model's implementation, which decides how sums are rounded
    generation_config: Mapping[str, Any] | None = None  # the model's own settings that are in force

    def __post_init__(self) -> None:
        """Raises ValueError for settings that no run could have had."""
        for field in fields(self):
            value, kind = getattr(self, field.name), _KINDS[field.name]
            if type(value) is not kind and not (value is None and field.name in _SINCE_3):
                raise ValueError(f"setting {field.name} must be {_NAMED[kind]}")
        if not all(type(layer) is int for layer in self.skip_layers):
            raise ValueError("setting skip_layers must be a list of integers")
        for name in ("limit", "batch_size", "max_new_tokens"):
            if not 1 <= getattr(self, name) < 2**63:
                raise ValueError(f"setting {name} must be at least 1")
        if len({getattr(self, name) is None for name in _SINCE_3}) > 1:
            raise ValueError(f"{', '.join(_SINCE_3)} go together")

    @property
    def format(self) -> int:
        """Of the records that hold it."""
        return 2 if self.tokenizer_sha256 is None else FORMAT

    @cached_property
    def key(self) -> str:
        return digest(self.to_dict())

    @property
    def batches(self) -> int:
        return -(-self.limit // self.batch_size)

    def to_dict(self) -> dict[str, Any]:
        """As records hold it: what is not known is not there."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    @classmethod
    def from_dict(cls, values: Any, written: int) -> Self:
        """From a record of that format. Raises ValueError for anything else."""
        names = {field.name for field in fields(cls)} - (set(_SINCE_3) if written == 2 else set())
        if type(values) is not dict or set(values) != names or type(values["skip_layers"]) is not list:
            raise ValueError("fields of the settings are missing, unknown or of another type")
        return cls(**values | {"skip_layers": tuple(values["skip_layers"])})

    def differences(self, other: RunConfig) -> str:
        """The settings in which `other` differs, as `name mine/theirs`; of settings within settings those that differ. What only one of
        them knows is no difference."""
        return differences(self.to_dict(), other.to_dict())


_KINDS: dict[str, type] = {field.name: str for field in fields(RunConfig)} | {
    "params": dict,
    "skip_layers": tuple,
    "limit": int,
    "batch_size": int,
    "max_new_tokens": int,
    "chat": bool,
    "generation_config": dict,
}
_NAMED = {str: "text", dict: "an object", tuple: "a list", int: "an integer", bool: "true or false"}


def differences(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """As `RunConfig.differences`, of settings as JSON has them."""
    return ", ".join(
        _difference(name, mine[name], theirs[name])
        for name in mine
        if name in theirs and _differ(mine[name], theirs[name])
    )


def _differ(mine: object, theirs: object) -> bool:
    return canonical(mine) != canonical(theirs)


def _difference(name: str, mine: Any, theirs: Any) -> str:
    if not (isinstance(mine, Mapping) and isinstance(theirs, Mapping)):
        return f"{name} {_short(mine)}/{_short(theirs)}"
    names = [
        within for within in dict.fromkeys([*mine, *theirs]) if _differ(mine.get(within), theirs.get(within))
    ]
    return f"{name} ({', '.join(f'{within} {_short(mine.get(within))}/{_short(theirs.get(within))}' for within in names)})"


def _short(value: object) -> str:
    if value is None:
        return "none"
    text = canonical(value)
    return text[:12] + "…" if len(text) > 60 else text
