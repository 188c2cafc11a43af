"""The configuration of a run: everything that decides its tokens. Standard library only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Self, final

FORMAT = 4  # raise it when the meaning of a field changes
# Formats 2 and 3 lack fields that were added later: their records are read, graded and tabulated, but never
# continued.
FORMATS = (2, 3, FORMAT)
_SINCE_3 = (
    "tokenizer_sha256",
    "chat_template_sha256",
    "prompts_sha256",
    "padding",
    "attention",
    "generation_config",
)
_SINCE_4 = ("grader", "prompt_template", "system", "data_sha256", "samples")
_LATER = frozenset(_SINCE_3 + _SINCE_4)


def canonical(value: object) -> str:
    """Returns the canonical JSON text of a value. Equal values give equal texts.

    Raises ValueError for NaN and infinity, which are not JSON.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: object) -> str:
    """Returns the sha256 of the canonical JSON of `value`, in hexadecimal."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def written_format(settings: Mapping[str, Any]) -> int:
    """Returns the format of settings whose file does not state it."""
    return 2 if _SINCE_3[0] not in settings else 3 if _SINCE_4[0] not in settings else FORMAT


@final
@dataclass(frozen=True)
class RunConfig:
    """Everything that decides the tokens of a run. Runs with equal keys are the same experiment."""

    model: str
    fingerprint: str  # of the weights
    dtype: str
    device: str
    method: str
    params: Mapping[str, Any]  # parameters of the method, as JSON values
    skip_layers: tuple[int, ...]  # layers that stay dense
    task: str
    task_sha256: str  # of ids, prompts and golds, in order
    order: str  # "dataset"
    limit: int  # number of prompts taken, from the first on
    batch_size: int
    max_new_tokens: int
    sampling: str  # "greedy", or temperature, top_p and seed
    chat: bool  # the prompts went through the model's chat template
    # The fields below are None in a record of format 2, which lacks them.
    tokenizer_sha256: str | None = None  # of the tokenizer's files
    chat_template_sha256: str | None = None  # empty text if there is no template
    prompts_sha256: str | None = None  # of the token ids of all prompts, in order
    padding: str | None = None  # "left"
    attention: str | None = None  # attention implementation of the model, which decides how sums are rounded
    generation_config: Mapping[str, Any] | None = None  # the model's own generation settings that apply
    # The fields below are None in records of formats 2 and 3.
    grader: str | None = None  # how the answers are compared with the golds
    prompt_template: str | None = None  # the prompt, with {question} where the question goes
    system: str | None = None  # system message; empty: none
    data_sha256: str | None = None  # of the file or dataset with the questions; empty if there is none
    samples: int | None = None  # answers to each prompt

    def __post_init__(self) -> None:
        """Raises ValueError if no run can have these settings."""
        for field in fields(self):
            value, kind = getattr(self, field.name), _KINDS[field.name]
            if type(value) is not kind and not (value is None and field.name in _LATER):
                raise ValueError(f"setting {field.name} must be {_NAMED[kind]}")
        if not all(type(layer) is int for layer in self.skip_layers):
            raise ValueError("setting skip_layers must be a list of integers")
        for name in ("limit", "batch_size", "max_new_tokens", "samples"):
            size = getattr(self, name)
            if size is not None and not 1 <= size < 2**63:
                raise ValueError(f"setting {name} must be at least 1")
        for names in (_SINCE_3, _SINCE_4):
            if len({getattr(self, name) is None for name in names}) > 1:
                raise ValueError(f"{', '.join(names)} must all be given, or none of them")
        if self.grader is not None and self.attention is None:
            raise ValueError(f"{', '.join(_SINCE_4)} are only given beside {', '.join(_SINCE_3)}")

    @property
    def format(self) -> int:
        """Format of the records that hold this configuration."""
        return written_format(self.to_dict())

    @cached_property
    def key(self) -> str:
        """Digest of all settings, which identifies the experiment."""
        return digest(self.to_dict())

    @property
    def batches(self) -> int:
        """Number of batches of a complete run.

        With several samples, all prompts are answered once, then all of them again, and so on.
        """
        return self.batches_of_a_sample * (self.samples or 1)

    @property
    def batches_of_a_sample(self) -> int:
        """Number of batches in which every prompt is answered once."""
        return -(-self.limit // self.batch_size)

    def to_dict(self) -> dict[str, Any]:
        """Returns the settings as records hold them. Unknown settings are left out."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    @classmethod
    def from_dict(cls, values: Any, written: int) -> Self:
        """Reads the settings of a record of format `written`.

        Raises ValueError if settings are missing, unknown or of another type.
        """
        unknown = {2: _LATER, 3: frozenset(_SINCE_4), FORMAT: frozenset[str]()}[written]
        names = {field.name for field in fields(cls)} - unknown
        if type(values) is not dict or set(values) != names or type(values["skip_layers"]) is not list:
            raise ValueError("fields of the settings are missing, unknown or of another type")
        return cls(**values | {"skip_layers": tuple(values["skip_layers"])})

    def differences(self, other: RunConfig) -> str:
        """Returns the settings in which `other` differs, as `name is mine there and theirs here`.

        Of nested settings, only those that differ are named. Settings that only one side knows are ignored.
        Digests come last, and are left out if another difference explains them.
        """
        return differences(self.to_dict(), other.to_dict())


_KINDS: dict[str, type] = {field.name: str for field in fields(RunConfig)} | {
    "params": dict,
    "skip_layers": tuple,
    "limit": int,
    "batch_size": int,
    "max_new_tokens": int,
    "chat": bool,
    "generation_config": dict,
    "samples": int,
}
# Settings that follow from others: a difference in one of those explains the difference.
_OF_QUESTIONS = {"task", "data_sha256", "limit", "prompt_template"}
_CAUSES: dict[str, set[str]] = {
    "fingerprint": {"model", "dtype"},
    "params": {"method"},
    "tokenizer_sha256": {"model"},
    "chat_template_sha256": {"model", "chat"},
    "data_sha256": {"task"},
    "task_sha256": _OF_QUESTIONS,
    "prompts_sha256": _OF_QUESTIONS
    | {"task_sha256", "system", "chat", "model", "tokenizer_sha256", "chat_template_sha256"},
}
_NAMED = {str: "text", dict: "an object", tuple: "a list", int: "an integer", bool: "true or false"}


def differences(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """Returns the same as `RunConfig.differences`, for settings as JSON values."""
    names = [name for name in mine if name in theirs and _differ(mine[name], theirs[name])]
    unexplained = [name for name in names if not _CAUSES.get(name, set()) & set(names)]
    return ", ".join(
        part
        for name in sorted(unexplained, key=_is_digest)
        for part in _difference(name, mine[name], theirs[name])
    )


def differing(many: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns, for each mapping, the entries that are not the same in all mappings."""
    everything = dict.fromkeys(name for one in many for name in one)
    varying = [name for name in everything if len({canonical(one.get(name)) for one in many}) > 1]
    return [{name: one.get(name, "none") for name in varying} for one in many]


def _is_digest(name: str) -> bool:
    return name == "fingerprint" or name.endswith("_sha256")


def _differ(mine: object, theirs: object) -> bool:
    return canonical(mine) != canonical(theirs)


def _difference(name: str, mine: Any, theirs: Any) -> Iterator[str]:
    """Yields each difference in words. Parameters of the method are known to users by their own names."""
    if not (isinstance(mine, Mapping) and isinstance(theirs, Mapping)):
        yield f"{name} is {_short(mine)} there and {_short(theirs)} here"
        return
    prefix = "" if name == "params" else f"{name} "
    for within in dict.fromkeys([*mine, *theirs]):
        if _differ(mine.get(within), theirs.get(within)):
            yield from _difference(f"{prefix}{within}", mine.get(within), theirs.get(within))


def _short(value: object) -> str:
    if value is None:
        return "none"
    text = canonical(value)
    return text.strip('"')[:12] + "…" if len(text) > 60 else text
