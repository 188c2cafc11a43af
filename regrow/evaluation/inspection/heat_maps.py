"""The activations of chosen layers as heat maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, final

import torch
from torch import Tensor
from torch.nn import functional

from regrow.analysis.inspection import HeatMap, Panel
from regrow.evaluation.inspection.masks import Masks

BANDS: Final = 256  # of neurons, at most
PROMPT_COLUMNS: Final = 32  # tokens at the end of the prompts that are drawn, at most
PANELS: Final = 4  # samples that are drawn, at most


@final
class HeatMaps:
    """Collects the activations of the chosen layers, already reduced to the bands that are drawn."""

    def __init__(
        self, layers: Sequence[int], drawn: Sequence[int], masks: Masks, order: Tensor, prompts: Sequence[int]
    ) -> None:
        """`layers`: those that the method prunes; `drawn`: those with a heat map.

        `order` [L, F]: the neurons in the order in which they are drawn. `prompts` [B]: the number of tokens
        of each prompt.
        """
        self._layers, self._drawn, self._masks, self._order = layers, drawn, masks, order
        neurons = order.shape[1]
        self._band = -(-neurons // BANDS)
        self._before = min(PROMPT_COLUMNS, max(prompts))
        shape = (
            len(drawn),
            min(len(prompts), PANELS),
            -(-neurons // self._band),
            self._before + len(masks.used),
        )
        self._magnitude = torch.full(shape, torch.nan)
        self._left_out = torch.zeros(shape, dtype=torch.bool)

    def take(self, place: int, sample: int, prompt: int, zbar: Tensor) -> None:
        """Adds the activations zbar `[T, F]` = z / ||z|| of a sample in one layer, `prompt` of them first."""
        if self._layers[place] not in self._drawn or sample >= PANELS:
            return
        before = min(prompt, self._before)
        order = self._order[place]
        shown = zbar[prompt - before :].abs()[:, order]
        missing = -len(order) % self._band
        bands = functional.pad(shown, (0, missing), value=-1).view(len(shown), -1, self._band)
        magnitude, strongest = bands.max(dim=-1)  # [C, R]
        strongest += self._band * torch.arange(strongest.shape[1], device=strongest.device)
        used = self._masks.used[: len(zbar) - prompt]
        used = torch.cat([used.new_full((before,), -1), used])
        left_out = (used >= 0)[:, None] & ~self._masks.kept[used.clamp(min=0), place].gather(
            1, order[strongest]
        )
        columns = slice(self._before - before, self._before + len(zbar) - prompt)
        into = self._drawn.index(self._layers[place]), sample, slice(None), columns
        self._magnitude[into], self._left_out[into] = magnitude.T.float().cpu(), left_out.T.cpu()

    def maps(self) -> list[HeatMap]:
        """Returns the heat maps of all chosen layers."""
        sizes = self._masks.sizes()
        return [
            HeatMap(
                layer,
                self._before,
                self._band,
                sizes[self._layers.index(layer)],
                [
                    Panel(sample + 1, magnitude.tolist(), left_out.tolist())
                    for sample, (magnitude, left_out) in enumerate(zip(*panels, strict=True))
                ],
            )
            for layer, *panels in zip(self._drawn, self._magnitude, self._left_out, strict=True)
        ]
