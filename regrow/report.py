"""What a batch did, from counters."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, final


@final
@dataclass
class Counters:
    """Host integers that the session and the decode loop add to."""

    decode_steps: int = 0
    sparse_steps: int = 0
    updates: int = 0  # selections
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    tokens: list[int] = field(default_factory=list)  # new tokens a sample, its EOS included
    finish_reasons: list[str] = field(default_factory=list)


@final
@dataclass(frozen=True)
class SiteCount:
    """Weight elements of one site, of each layer, over all decode steps: those that took part, and those there are."""

    kept: list[int]
    dense: list[int]


@final
@dataclass(frozen=True)
class Report:
    """The latest batch of a session.

    `sites` are the linears of the blocks by shared input: qkv, o, gate_up, down. `weights_kept` of `weights_dense` took part in decode
    steps, over the sites that the method prunes; `actual_sparsity` is 1 - their ratio. `bytes_read` are the weights of the blocks that
    decode steps had to read, `ffn_bytes_read` those of the FFNs; zeros in weights (Wanda, SparseGPT) are read like the rest.
    `turnover` is 1 - |I_n and I_(n-1)| / |I_n|, for each pruned layer the mean over mask updates; empty for a method without masks to keep.
    """

    method: dict[str, Any]
    target_sparsity: float
    actual_sparsity: float
    decode_steps: int
    sparse_steps: int
    sparse_share: float
    weights_kept: int
    weights_dense: int
    sites: dict[str, SiteCount]
    bytes_read: int
    ffn_bytes_read: int
    updates: int
    turnover: list[float]
    refresh_bytes: int
    tokens: list[int]
    finish_reasons: list[str]
    prefill_seconds: float
    decode_seconds: float
    state_bytes: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
