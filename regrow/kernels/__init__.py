"""FFNs that compute only the retained neurons. `sparse_ffn` picks the implementation; a new kernel is one file and one line here."""

from __future__ import annotations

from torch import Tensor

from regrow.core import FFNWeights
from regrow.kernels.compact import CompactFFN

__all__ = ["CompactFFN", "sparse_ffn"]


def sparse_ffn(weights: FFNWeights, keep: int, scratch: Tensor) -> CompactFFN:
    """The sparse form of one FFN with `keep` retained neurons; `scratch` [keep, D] may be shared by all layers."""
    return CompactFFN(weights, keep, scratch)
