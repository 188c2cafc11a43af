"""What decoding counts: the same counters for a batch, a run of several and a file of records. A ratio is taken once, of the sums."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import isfinite
from operator import add
from typing import Any, Self, final

LARGEST = 2**63 - 1  # of a counter; no run comes near
# What a record holds at least, as numbers of 0 or more.
REQUIRED = (
    "decode_steps",
    "sparse_steps",
    "weights_kept",
    "weights_dense",
    "bytes_read",
    "ffn_bytes_read",
    "refresh_bytes",
    "prefill_seconds",
    "decode_seconds",
)


@final
@dataclass(frozen=True)
class SiteCount:
    """Weight elements of one site, of each layer, over all decode steps: those that took part, and those there are."""

    kept: list[int]
    dense: list[int]

    def __add__(self, other: SiteCount) -> SiteCount:
        return SiteCount(_added(self.kept, other.kept), _added(self.dense, other.dense))

    @property
    def counted(self) -> bool:
        """Whether there is a sparsity to speak of."""
        return bool(self.dense) and all(self.dense)

    @property
    def layers(self) -> list[float]:
        """The sparsity of each layer."""
        return [1 - kept / dense for kept, dense in zip(self.kept, self.dense, strict=True)]

    @property
    def sparsity(self) -> float:
        return 1 - sum(self.kept) / sum(self.dense)


@final
@dataclass
class Counters:
    """Of one batch as the session and the decode loop add to it, or the sum of several. Ratios are None where nothing was counted.

    `sites` are the linears of the blocks by shared input: qkv, o, gate_up, down. `weights_kept` of `weights_dense` took part in decode
    steps, over the sites that the method prunes. `bytes_read` are the weights of the blocks that decode steps had to read,
    `ffn_bytes_read` those of the FFNs; zeros in weights (Wanda, SparseGPT) are read like the rest.
    """

    decode_steps: int = 0
    sparse_steps: int = 0
    weights_kept: int = 0
    weights_dense: int = 0
    sites: dict[str, SiteCount] = field(default_factory=dict)
    bytes_read: int = 0
    ffn_bytes_read: int = 0
    updates: int = 0  # selections
    replaced: int = 0  # selections that took the place of a mask: all but the first of a batch
    left: list[float] = field(
        default_factory=list
    )  # [pruned layers] 1 - |I_n and I_(n-1)| / |I_n|, summed over `replaced`
    refresh_bytes: int = 0
    tokens: list[int] = field(default_factory=list)  # new tokens a sample, its EOS included
    finish_reasons: list[str] = field(default_factory=list)
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    state_bytes: int = 0  # the most that a batch held
    sparse_seconds: float = 0.0  # of `decode_seconds`, that of sparse steps and of new masks; 0 where the host does not wait for a step
    refresh_seconds: float = 0.0

    def __add__(self, other: Counters) -> Counters:
        """Raises ValueError for counters of other layers."""
        summed = {
            name: getattr(self, name) + getattr(other, name)
            for name in (*_NUMBERS, "tokens", "finish_reasons")
        }
        names = dict.fromkeys([*self.sites, *other.sites])
        sites = {name: _both(self.sites.get(name), other.sites.get(name)) for name in names}
        left = _added(self.left, other.left) if self.left and other.left else self.left or other.left
        return Counters(
            **summed, sites=sites, left=left, state_bytes=max(self.state_bytes, other.state_bytes)
        )

    @property
    def actual_sparsity(self) -> float | None:
        """Of the weights at the sites that the method prunes, over decode steps."""
        kept = _ratio(self.weights_kept, self.weights_dense)
        return None if kept is None else 1 - kept

    @property
    def sparse_share(self) -> float | None:
        """Of decode steps."""
        return _ratio(self.sparse_steps, self.decode_steps)

    @property
    def turnover(self) -> list[float]:
        """For each pruned layer the mean over mask updates; empty for a method without masks to keep."""
        return [layer / max(1, self.replaced) for layer in self.left]

    @property
    def samples(self) -> int:
        return len(self.tokens)

    @property
    def new_tokens(self) -> int:
        return sum(self.tokens)

    @property
    def decode_tokens_per_second(self) -> float | None:
        """All samples together; the first token of a sample is the prompt's."""
        decoded = self.new_tokens - self.samples
        return _ratio(decoded, self.decode_seconds) if decoded > 0 else None

    @property
    def step_seconds(self) -> tuple[float, float, float] | None:
        """Of a sparse and of a dense step, and of a step with its share of the new masks, on average; None where they were not timed, or
        one kind did not occur."""
        dense = self.decode_steps - self.sparse_steps
        if not self.sparse_seconds or not self.sparse_steps or not dense:
            return None
        others = self.decode_seconds - self.sparse_seconds - self.refresh_seconds
        return (
            self.sparse_seconds / self.sparse_steps,
            others / dense,
            self.decode_seconds / self.decode_steps,
        )

    @property
    def bytes_per_token(self) -> float | None:
        return _ratio(self.bytes_read, self.new_tokens)

    @property
    def ffn_bytes_per_token(self) -> float | None:
        return _ratio(self.ffn_bytes_read, self.new_tokens)

    @property
    def refresh_bytes_per_token(self) -> float | None:
        """Moved by mask refreshes, on top of what is read."""
        return _ratio(self.refresh_bytes, self.new_tokens)

    @property
    def ffn_bytes_per_step(self) -> float | None:
        return _ratio(self.ffn_bytes_read, self.decode_steps)

    @property
    def all_dense(self) -> bool:
        """Whether no decode step left anything out."""
        return self.weights_kept == self.weights_dense

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        values = asdict(self) | {"turnover": self.turnover}
        del values["left"], values["replaced"]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The same from JSON values. Raises ValueError for what cannot have been counted."""
        lacking = [name for name in REQUIRED if not _is_number(values.get(name))]
        lacking += [name for name in ("updates", *_LATER) if not _is_number(values.get(name, 0))]
        if lacking:
            raise ValueError(f"no number of at least 0 for {', '.join(lacking)}")
        if (
            values["sparse_steps"] > values["decode_steps"]
            or values["weights_kept"] > values["weights_dense"]
        ):
            raise ValueError("more was counted than there is")
        replaced = max(0, values.get("updates", 0) - 1)
        return cls(
            **{name: values[name] for name in REQUIRED},
            updates=values.get("updates", 0),
            replaced=replaced,
            sites=_sites(values.get("sites", {})),
            left=[share * replaced for share in _numbers("turnover", values.get("turnover", []))],
            tokens=_numbers("tokens", values.get("tokens", [])),
            **{name: values.get(name, 0) for name in _LATER},
        )


_TIMED = ("sparse_seconds", "refresh_seconds")
_LATER = ("state_bytes", *_TIMED)  # older records lack them
_NUMBERS = (*REQUIRED, "updates", "replaced", *_TIMED)  # they add up
_Numbers = list[Any]


def _sites(values: Any) -> dict[str, SiteCount]:
    if not isinstance(values, dict):
        raise ValueError("sites must be an object")
    found = {}
    for name, counted in values.items():
        if not isinstance(counted, dict) or set(counted) != {"kept", "dense"}:
            raise ValueError(f"site {name!r} must hold kept and dense")
        kept, dense = (_numbers(name, counted[part]) for part in ("kept", "dense"))
        if len(kept) != len(dense):
            raise ValueError(f"site {name!r} counts other layers as kept than as dense")
        found[name] = SiteCount(kept, dense)
    return found


def _numbers(name: str, values: Any) -> _Numbers:
    if not isinstance(values, list) or not all(map(_is_number, values)):
        raise ValueError(f"{name} must be a list of numbers of at least 0")
    return values


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and 0 <= value <= LARGEST and isfinite(value)  # type: ignore[operator,arg-type]


def _both(one: SiteCount | None, other: SiteCount | None) -> SiteCount:
    return one + other if one and other else one or other or SiteCount([], [])


def _added(one: _Numbers, other: _Numbers) -> _Numbers:
    return list(map(add, one, other)) if len(one) == len(other) else _differing()


def _differing() -> _Numbers:
    raise ValueError("the counters are of other layers")


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
