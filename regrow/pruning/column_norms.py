"""The norms of the columns of a weight, by which scores are weighed."""

from __future__ import annotations

import torch
from torch import Tensor

from regrow.core import score_dtype


def column_norms(weight: Tensor) -> Tensor:
    """Returns ||W[:, i]||_2 of a weight `[out, in]`, as `[in]` in the dtype of scores."""
    norms: Tensor = torch.linalg.vector_norm(weight, dim=0, dtype=score_dtype(weight))
    return norms
