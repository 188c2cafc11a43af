"""What a batch cost, counted where it is spent."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from regrow.core import Site

SITES = tuple(Site)


@final
class Meter:
    """Weight elements that took part in committed decode steps, by site and layer, and what selections moved."""

    def __init__(self, layers: int, device: torch.device) -> None:
        self._layers = layers
        # The device alone knows these until somebody asks. Their addresses never change.
        self._pending = torch.zeros(len(SITES), layers, dtype=torch.int64, device=device)
        self._measured = torch.zeros_like(self._pending)
        self.reset()

    def reset(self) -> None:
        self._counted = {site: [0] * self._layers for site in Site}
        self._measured.zero_()
        self._pending.zero_()
        self.refresh_bytes = 0  # read and written

    def count(self, site: Site, layer: int, weights: int) -> None:
        self._counted[site][layer] += weights

    def measured(self, site: Site, layer: int) -> Tensor:
        """A number [] int64 on the device, to be added to in place while a pass runs: the host does not wait for it."""
        return self._pending[SITES.index(site), layer]

    def drop(self) -> None:
        """Forgets what a pass measured that nobody committed."""
        self._pending.zero_()

    def commit(self) -> None:
        """What the pass measured counts."""
        self._measured += self._pending
        self._pending.zero_()

    def kept(self) -> dict[Site, list[int]]:
        measured = self._measured.tolist()
        return {
            site: [a + b for a, b in zip(self._counted[site], row, strict=True)]
            for site, row in zip(SITES, measured, strict=True)
        }
