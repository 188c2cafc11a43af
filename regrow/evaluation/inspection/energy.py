"""The share of the activation energy that the masks keep."""

from __future__ import annotations

from typing import Final, final

import torch
from torch import Tensor

from regrow.analysis.inspection import Energy, Share
from regrow.evaluation.inspection.masks import Masks

CHUNK: Final = 256  # tokens whose activations are sorted at once


@final
class EnergyKept:
    """Collects, for the sparse steps of each sample, the energy in the mask and the most that k can hold."""

    def __init__(self, masks: Masks, samples: int) -> None:
        self._masks = masks
        shape = masks.kept.shape[1], samples, len(masks.used)
        # Both [L, B, N]; NaN at dense steps, after a sample's end, and for z = 0.
        self._kept = torch.full(shape, torch.nan, dtype=torch.float64)
        self._best = torch.full(shape, torch.nan, dtype=torch.float64)

    def take(self, place: int, sample: int, prompt: int, zbar: Tensor) -> None:
        """Adds the activations zbar `[T, F]` = z / ||z|| of a sample in one layer, `prompt` of them first."""
        used = self._masks.used[: len(zbar) - prompt]
        # In chunks, because sorting takes several times the memory of what is sorted.
        for steps in torch.split((used >= 0).nonzero().squeeze(1), CHUNK):
            share = zbar[prompt + steps].square()
            kept, whole = self._masks.kept[used[steps], place], share.sum(dim=-1)
            largest = share.sort(dim=-1, descending=True).values.cumsum(dim=-1)
            best = largest.gather(1, kept.sum(dim=-1, keepdim=True).clamp(min=1) - 1).squeeze(1)
            for found, into in (((share * kept).sum(dim=-1), self._kept), (best, self._best)):
                into[place, sample, steps.cpu()] = (found / whole).double().cpu()

    def of_masks(self) -> Energy:
        """Returns the energy of the neurons in the mask that each step used."""
        return _energy(self._kept)

    def of_best(self) -> Energy:
        """Returns the energy of as many neurons, the largest ones of each token of each sample."""
        return _energy(self._best)


def _energy(found: Tensor) -> Energy:
    """Returns the means of `[L, B, N]` over steps and over layers."""
    return Energy(
        [_shares(rows) for rows in found.nanmean(dim=2)], [_shares(rows) for rows in found.nanmean(0)]
    )


def _shares(values: Tensor) -> list[Share]:
    return [None if value != value else value for value in values.tolist()]
