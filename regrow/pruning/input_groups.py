"""Groups of linear layers that share an input and its mask: q, k and v, or gate and up.

Only methods that compare unweighted inputs with thresholds (TEAL) have groups of several layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import final

from torch import Tensor

from regrow.core import Linear
from regrow.kernels import AboveThreshold, MaskedLinears, masked_linears


def share_an_input(
    linears: Sequence[Linear], thresholds: Sequence[float] | None, *, weighed: bool
) -> list[list[int]]:
    """Returns the indices of the linear layers, grouped by the inputs that they keep.

    A group consists of consecutive linear layers of one module and site whose thresholds are equal.
    Thresholds that were calibrated on the same input are equal. If the inputs are weighted by column norms,
    or selected without thresholds, every linear layer forms a group of its own.
    """
    if weighed or thresholds is None:
        return [[place] for place in range(len(linears))]

    def group_key(place: int) -> tuple[object, ...]:
        linear = linears[place]
        return (
            linear.name.rpartition(".")[0],
            linear.layer,
            linear.site,
            linear.weight.shape[1],
            thresholds[place],
        )

    return [list(places) for _, places in groupby(range(len(linears)), key=group_key)]


@final
class InputGroup:
    """Linear layers that keep the same inputs.

    The first layer that is called computes the outputs of all. The calls of the other layers return theirs.
    """

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

    def run(self, place: int, x: Tensor, keep: Callable[[], Tensor | AboveThreshold]) -> Tensor:
        """Returns y `[..., out]` for x `[..., in]`, using only the inputs that `keep()` selects.

        `keep` is called once for all layers of the group that are called with this very tensor.
        """
        if x is not self._x or place not in self._ready:
            self._x, self._ready = x, dict(zip(self._places, self._linears(x, keep()), strict=True))
        y = self._ready.pop(place)
        if not self._ready:
            self._x = None
        return y
