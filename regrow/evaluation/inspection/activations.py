"""Hands over the activations of all FFNs while a model runs texts densely."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import final

import torch
from torch import Tensor, nn

from regrow.adapter.patch import Patch
from regrow.adapter.survey import survey
from regrow.core import FFN, FFN_SITES, Surface, score_dtype
from regrow.kernels import relative


@contextmanager
def tapped(
    model: nn.Module, skip_layers: Sequence[int], take: Callable[[int, Tensor], None]
) -> Iterator[None]:
    """Calls `take(place, zbar)` for every FFN of a forward pass while the context lasts.

    `place` numbers the layers that are not skipped. zbar `[T, F]` is z / ||z||, in float32 or float64. The
    model computes what it computes otherwise. Raises UsageError for a model without gated FFNs.
    """
    blocks, modules = survey(model, Surface.NEURONS, FFN_SITES, skip_layers)
    with Patch() as patch, torch.no_grad():
        for place, (ffn, module) in enumerate(zip(blocks.ffns, modules, strict=True)):
            patch.replace(module, "forward", _Tap(ffn, place, take))
        yield


@final
class _Tap:
    """Replaces the forward of an FFN, with the same output."""

    def __init__(self, ffn: FFN, place: int, take: Callable[[int, Tensor], None]) -> None:
        self._ffn, self._place, self._take = ffn, place, take

    def __call__(self, x: Tensor) -> Tensor:
        z = self._ffn.hidden(x)
        rows = z.flatten(0, -2).to(score_dtype(z))
        self._take(self._place, relative(rows, torch.ones(len(rows), dtype=torch.bool, device=rows.device)))
        return self._ffn.output(z)
