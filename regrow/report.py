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
    neurons_computed: int = 0  # over decode steps and layers, pruned or not
    neurons_dense: int = 0  # what a dense run would have computed
    ffn_bytes_read: int = 0  # FFN weights read by decode steps
    updates: int = 0  # selections
    refresh_bytes: int = 0  # read and written by mask refreshes
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    tokens: list[int] = field(default_factory=list)  # new tokens a sample, its EOS included
    finish_reasons: list[str] = field(default_factory=list)


@final
@dataclass(frozen=True)
class Report:
    """The latest batch of a session. `actual_sparsity` is 1 - computed / dense neurons over all decode steps and layers; `turnover` is
    1 - |I_n and I_(n-1)| / k, for each layer the mean over mask updates."""

    method: dict[str, Any]
    target_sparsity: float
    actual_sparsity: float
    decode_steps: int
    sparse_steps: int
    sparse_share: float
    neurons_computed: int
    neurons_dense: int
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
