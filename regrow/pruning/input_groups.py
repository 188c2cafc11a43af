"""Linears of a block that share an input and what is kept of it: q, k and v, or gate and up, of a method without weighed inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import final

from torch import Tensor

from regrow.core import Linear
from regrow.kernels import MaskedLinears, masked_linears


def share_an_input(
    linears: Sequence[Linear], thresholds: Sequence[float] | None, *, weighed: bool
) -> list[list[int]]:
    """The numbers of the linears, those together that keep the same inputs.

    Those are linears of one module and site that follow each other and whose thresholds are equal, as thresholds of the same input are.
    Inputs that are weighed by the linear's own columns, or chosen without a threshold, are each linear's own.
    """
    if weighed or thresholds is None:
        return [[place] for place in range(len(linears))]

    def kind(place: int) -> tuple[object, ...]:
        of = linears[place]
        return of.name.rpartition(".")[0], of.layer, of.site, of.weight.shape[1], thresholds[place]

    return [list(places) for _, places in groupby(range(len(linears)), key=kind)]


@final
class InputGroup:
    """Linears that keep the same inputs: the first to be called runs all, the others find their output ready."""

    def __init__(self, places: Sequence[int], linears: Sequence[Linear]) -> None:
        self._places = places
        self.outputs = sum(len(linears[place].weight) for place in places)
        self._linears: MaskedLinears = masked_linears(
            [linears[p].weight for p in places], [linears[p].bias for p in places]
        )
        self._x: Tensor | None = None
        self._ready: dict[int, Tensor] = {}

    @property
    def state_bytes(self) -> int:
        return self._linears.state_bytes

    def run(self, place: int, x: Tensor, keep: Callable[[], Tensor]) -> Tensor:
        """y [..., out] of x [..., in] with the inputs `keep()` [in] bool, which is asked once for all that are given this very tensor."""
        if x is not self._x or place not in self._ready:
            self._x, self._ready = x, dict(zip(self._places, self._linears(x, keep()), strict=True))
        y = self._ready.pop(place)
        if not self._ready:
            self._x = None
        return y
