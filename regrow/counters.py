"""Counters of decoding. Those of a batch, of a run and of a file of records have one type, and can be added.

Ratios are computed from the sums. They are never averaged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import isfinite
from operator import add
from typing import Any, Self, final

LARGEST = 2**63 - 1  # largest value accepted for a counter; no run comes near it
# Fields that every record must have, as numbers of at least 0.
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
    """Weight elements at one site, for each layer, summed over all decode steps."""

    kept: list[int]  # elements that took part in the computation
    dense: list[int]  # elements that a dense run uses

    def __add__(self, other: SiteCount) -> SiteCount:
        return SiteCount(_added(self.kept, other.kept), _added(self.dense, other.dense))

    @property
    def counted(self) -> bool:
        """True if every layer has a count, so that a sparsity is defined."""
        return bool(self.dense) and all(self.dense)

    @property
    def layers(self) -> list[float]:
        """The sparsity of each layer."""
        return [1 - kept / dense for kept, dense in zip(self.kept, self.dense, strict=True)]

    @property
    def sparsity(self) -> float:
        """The sparsity over all layers."""
        return 1 - sum(self.kept) / sum(self.dense)


@final
@dataclass
class Counters:
    """Counters of one batch, to which the session and the decode loop add, or the sum of several batches.

    A ratio is None if nothing was counted.

    - `sites`: linear layers of the blocks, grouped by the input they share: qkv, o, gate_up, down.
    - `weights_kept`, `weights_dense`: weight elements that took part in decode steps, and those that a dense
      run uses, over the sites that the method prunes.
    - `bytes_read`: weights of the blocks that decode steps had to read. Zeros in pruned weights (Wanda,
      SparseGPT) are read like all others.
    - `ffn_bytes_read`: the part of `bytes_read` that belongs to FFNs.
    """

    decode_steps: int = 0
    sparse_steps: int = 0
    weights_kept: int = 0
    weights_dense: int = 0
    sites: dict[str, SiteCount] = field(default_factory=dict)
    bytes_read: int = 0
    ffn_bytes_read: int = 0
    updates: int = 0  # selections
    replaced: int = 0  # selections that replaced an earlier mask: all but the first of a batch
    # [pruned layers] 1 - |I_n and I_(n-1)| / |I_n|, summed over the `replaced` selections.
    left: list[float] = field(default_factory=list)
    refresh_bytes: int = 0  # read and written when a new mask moves weights
    tokens: list[int] = field(default_factory=list)  # new tokens of each sample, its EOS included
    finish_reasons: list[str] = field(default_factory=list)
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    state_bytes: int = 0  # the largest of any batch
    # Parts of `decode_seconds`: sparse steps and new masks. 0 if the host does not wait for each step.
    sparse_seconds: float = 0.0
    refresh_seconds: float = 0.0
    # Of lossless decoding: drafts of live rows that were checked, those that were kept, and the dense passes
    # that each sample took part in, summed over the samples.
    drafted: int = 0
    drafts_kept: int = 0
    sample_passes: int = 0
    draft_costs: dict[str, Any] = field(default_factory=dict)  # seconds of passes, if they were measured

    def __add__(self, other: Counters) -> Counters:
        """Raises ValueError if the two count different layers."""
        summed = {
            name: getattr(self, name) + getattr(other, name)
            for name in (*_NUMBERS, "tokens", "finish_reasons")
        }
        names = dict.fromkeys([*self.sites, *other.sites])
        sites = {name: _both(self.sites.get(name), other.sites.get(name)) for name in names}
        left = _added(self.left, other.left) if self.left and other.left else self.left or other.left
        return Counters(
            **summed,
            sites=sites,
            left=left,
            state_bytes=max(self.state_bytes, other.state_bytes),
            draft_costs=self.draft_costs or other.draft_costs,
        )

    @property
    def actual_sparsity(self) -> float | None:
        """Share of weights left out in decode steps, over the sites that the method prunes."""
        kept = _ratio(self.weights_kept, self.weights_dense)
        return None if kept is None else 1 - kept

    @property
    def sparse_share(self) -> float | None:
        """Share of decode steps that were sparse."""
        return _ratio(self.sparse_steps, self.decode_steps)

    @property
    def turnover(self) -> list[float]:
        """Mean share of the neurons of a new mask that the previous mask did not hold, for each pruned layer.

        The mean is over all mask refreshes. The list is empty if the method selects in every step, or never.
        """
        return [layer / max(1, self.replaced) for layer in self.left]

    @property
    def samples(self) -> int:
        """Number of samples."""
        return len(self.tokens)

    @property
    def new_tokens(self) -> int:
        """Number of new tokens of all samples."""
        return sum(self.tokens)

    @property
    def decode_tokens_per_second(self) -> float | None:
        """Tokens per second of decoding, over all samples.

        The first token of each sample is left out, because the prompt's pass produces it.
        """
        decoded = self.new_tokens - self.samples
        return _ratio(decoded, self.decode_seconds) if decoded > 0 else None

    @property
    def tokens_per_pass(self) -> float | None:
        """Tokens that a dense pass of lossless decoding gave a sample on average; 1 if no draft was kept.

        The first token of each sample is left out. None if decoding was not lossless.
        """
        return _ratio(self.new_tokens - self.samples, self.sample_passes)

    @property
    def step_seconds(self) -> tuple[float, float, float] | None:
        """Mean seconds of a sparse step, of a dense step, and of any step with its share of the new masks.

        None if steps were not timed, or if one of the two kinds did not occur.
        """
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
        """Bytes of weights that decode steps read, for each new token; None without new tokens."""
        return _ratio(self.bytes_read, self.new_tokens)

    @property
    def ffn_bytes_per_token(self) -> float | None:
        """Bytes of FFN weights that decode steps read, for each new token; None without new tokens."""
        return _ratio(self.ffn_bytes_read, self.new_tokens)

    @property
    def refresh_bytes_per_token(self) -> float | None:
        """Bytes moved by mask refreshes, for each new token. `bytes_per_token` does not include them."""
        return _ratio(self.refresh_bytes, self.new_tokens)

    @property
    def ffn_bytes_per_step(self) -> float | None:
        """Bytes of FFN weights that a decode step reads on average; None without decode steps."""
        return _ratio(self.ffn_bytes_read, self.decode_steps)

    @property
    def all_dense(self) -> bool:
        """True if no decode step left out a weight."""
        return self.weights_kept == self.weights_dense

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON values, with `turnover` in place of `left` and `replaced`."""
        values = asdict(self) | {"turnover": self.turnover}
        del values["left"], values["replaced"]
        if not any(values[name] for name in _DRAFTS):
            for name in (*_DRAFTS, "draft_costs"):
                del values[name]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Reads counters from JSON values. Raises ValueError if the values cannot have been counted."""
        lacking = [name for name in REQUIRED if not _is_number(values.get(name))]
        lacking += [name for name in ("updates", *_LATER) if not _is_number(values.get(name, 0))]
        if lacking:
            raise ValueError(f"not a number of at least 0: {', '.join(lacking)}")
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
_DRAFTS = ("drafted", "drafts_kept", "sample_passes")
_LATER = ("state_bytes", *_TIMED, *_DRAFTS)  # older records lack them
_NUMBERS = (*REQUIRED, "updates", "replaced", *_TIMED, *_DRAFTS)  # added as plain numbers
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
            raise ValueError(f"site {name!r} counts different layers in kept and dense")
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
