"""Counts the cost of decoding a batch."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from regrow.core import Site

SITES = tuple(Site)


@final
class Meter:
    """Counts the weight elements used in committed decode steps, by site and layer.

    `refresh_bytes` counts the bytes that refreshes of the mask read and write.
    """

    def __init__(self, layers: int, device: torch.device) -> None:
        self._layers = layers
        # These counts stay on the device until `kept` reads them. Captured graphs write to them, so their
        # addresses must not change.
        self._pending = torch.zeros(len(SITES), layers, dtype=torch.int64, device=device)
        self._measured = torch.zeros_like(self._pending)
        self.reset()

    def reset(self) -> None:
        self._counted = {site: [0] * self._layers for site in Site}
        self._measured.zero_()
        self._pending.zero_()
        self.refresh_bytes = 0  # read and written

    def count(self, site: Site, layer: int, weights: int) -> None:
        """Adds `weights` elements to the counts on the host."""
        self._counted[site][layer] += weights

    def measured(self, site: Site, layer: int) -> Tensor:
        """Returns a counter `[]` int64 on the device.

        A forward pass adds to the counter in place, so no synchronisation is needed.
        """
        return self._pending[SITES.index(site), layer]

    def drop(self) -> None:
        """Discards the measured counts of a forward pass that was not committed."""
        self._pending.zero_()

    def commit(self) -> None:
        """Adds the measured counts of the forward pass to the total."""
        self._measured += self._pending
        self._pending.zero_()

    def kept(self) -> dict[Site, list[int]]:
        """Returns the weight elements used, by site and layer. Synchronises with the device."""
        measured = self._measured.tolist()
        return {
            site: [a + b for a, b in zip(self._counted[site], row, strict=True)]
            for site, row in zip(SITES, measured, strict=True)
        }
