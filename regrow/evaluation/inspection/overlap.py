"""The overlap between the samples of a batch, by their own scores."""

from __future__ import annotations

import torch
from torch import Tensor

from regrow.analysis.inspection import Overlap
from regrow.evaluation.inspection.masks import shared
from regrow.selection.index_set import largest


def overlap(kept: Tensor, scores: Tensor) -> Overlap | None:
    """Compares the samples' own neurons with each other and with a mask `kept` [L, F] bool.

    `scores` [L, S, F] is NaN for samples that do not count. Returns None if fewer than two samples count.
    """
    counted = (~scores.isnan().any(dim=-1).any(dim=0)).nonzero().squeeze(1)
    if len(counted) < 2:
        return None
    common, covered = [], []
    for mask, rows in zip(kept, scores[:, counted], strict=True):
        own = largest(rows, max(int(mask.sum()), 1))  # [S, F]
        common.append(shared(own[:, None], own[None]).tolist())
        covered.append(shared(own, mask).tolist())
    return Overlap([sample + 1 for sample in counted.tolist()], common, covered)


def order(kept: Tensor, scores: Tensor | None) -> Tensor:
    """Returns neurons `[L, F]` in the order in which they are drawn, as `HeatMap` describes it."""
    if scores is None:
        score = torch.zeros(kept.shape, device=kept.device)
    else:
        score = scores.nan_to_num(nan=-1.0).amax(dim=1)
    by_score = score.sort(dim=-1, descending=True, stable=True).indices
    first = kept.gather(1, by_score).to(torch.int8).sort(dim=-1, descending=True, stable=True).indices
    return by_score.gather(1, first)
