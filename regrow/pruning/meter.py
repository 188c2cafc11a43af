"""What a batch cost, counted where it is spent."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from regrow.core import Site

SITES = tuple(Site)


@final
class Meter:
    """Weight elements that took part in decode steps, by site and layer, and what selections moved."""

    def __init__(self, layers: int, device: torch.device) -> None:
        self._layers = layers
        # Known to the device alone until asked for. Its address never changes.
        self._measured = torch.zeros(len(SITES), layers, dtype=torch.int64, device=device)
        self.reset()

    def reset(self) -> None:
        self._counted = {site: [0] * self._layers for site in Site}
        self._measured.zero_()
        self.refresh_bytes = 0  # read and written

    def count(self, site: Site, layer: int, weights: int) -> None:
        self._counted[site][layer] += weights

    def measured(self, site: Site, layer: int) -> Tensor:
        """A number [] int64 on the device, to be added to in place: the same count, for which the host does not wait."""
        return self._measured[SITES.index(site), layer]

    def kept(self) -> dict[Site, list[int]]:
        measured = self._measured.tolist()
        return {site: [a + b for a, b in zip(self._counted[site], row, strict=True)] for site, row in zip(SITES, measured, strict=True)}
