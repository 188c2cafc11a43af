"""Computes thresholds: quantiles, over a text, of the scores that a method compares with its thresholds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from fractions import Fraction
from math import ceil
from typing import Final, final

import torch
from torch import Tensor, nn

from regrow.adapter.patch import Patch
from regrow.adapter.survey import survey
from regrow.core import Site
from regrow.errors import RegrowError
from regrow.method.base import Method
from regrow.pruning.pruner import Pruner
from regrow.weights.pattern import require_finite

# A histogram bin is given by the leading bits of a float32: 8 of the exponent and 10 of the mantissa.
# A bin is therefore about a thousandth of its value wide.
_SHIFT: Final = 23 - 10
_BINS: Final = 1 << (8 + 10)


def thresholds(
    model: nn.Module,
    method: Method,
    sequences: Sequence[Tensor],
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Tensor]:
    """Returns a threshold [] float64 for each module that the method can prune, keyed by module name.

    The share `method.target` of the module's scores over the text is at or below the threshold. The text is
    given as `sequences` of token ids, [T] each, and is run densely. A batch [B, T] stands for decode steps of
    B rows, which share one score: the mean of theirs. `progress(done, total)` is called after each sequence.
    Raises RegrowError if the model overflows, or if a module is never run.
    """
    # All sites, including those that the method could prune but does not prune with these parameters.
    blocks, modules = survey(model, method.surface, tuple(Site))
    pruner = method.pruner(blocks, {})
    names = [place.name for place in blocks.linears] or [ffn.name for ffn in blocks.ffns]
    seen = [torch.zeros(_BINS, dtype=torch.int32, device=sequences[0].device) for _ in modules]
    with Patch() as patch, torch.no_grad():
        for place, (module, name) in enumerate(zip(modules, names, strict=True)):
            patch.replace(module, "forward", _Recorder(pruner, place, name, seen[place]))
        for done, ids in enumerate(sequences, 1):
            model(input_ids=ids.view(-1, ids.shape[-1]), use_cache=False)
            if progress is not None:
                progress(done, len(sequences))
    return {
        name: _quantile(histogram, method.target, name) for name, histogram in zip(names, seen, strict=True)
    }


@final
class _Recorder:
    """Replaces the forward of a module during a calibration, with the same output.

    It also adds the scores of the module's inputs (or of an FFN's neurons) to a histogram.
    """

    def __init__(self, pruner: Pruner, place: int, name: str, seen: Tensor) -> None:
        self._pruner, self._place, self._name, self._seen = pruner, place, name, seen

    def __call__(self, x: Tensor) -> Tensor:
        scores = self._pruner.scores(self._place, x.flatten(0, -2)).float()
        if len(x) > 1:  # a batch
            scores = scores.view(*x.shape[:-1], -1).mean(dim=0)
        scores = scores.flatten()
        require_finite(scores, self._name)
        bins = scores.view(torch.int32) >> _SHIFT
        self._seen.index_add_(0, bins, self._seen.new_ones(()).expand_as(bins))
        return self._pruner.run(self._place, x, None)


def _quantile(histogram: Tensor, share: Decimal, name: str) -> Tensor:
    """Returns the upper edge of the first bin up to which at least `share` of the scores lie; 0 for bin 0."""
    total = int(histogram.sum())
    if total == 0:
        raise RegrowError(f"{name} was never run over the calibration text; use a model whose layers all run")
    below = histogram.cumsum(0, dtype=torch.int64)
    place = int(torch.searchsorted(below, ceil(Fraction(share) * total)))
    edge = torch.tensor((place + 1) << _SHIFT, dtype=torch.int32).view(torch.float32)
    return edge.double() if place else torch.zeros((), dtype=torch.float64)
