"""Which of torch's products a few rows take on this CPU, measured once a process on weights that no cache holds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, final

import torch
from torch import Tensor
from torch.nn.functional import linear

from regrow.kernels.laid_out.weight import LaidOutWeight, can_lay_out

SMALL: Final = 64 * 2**20  # bytes of weights that a cache may hold: there the layout does not matter
NATIVE, ONEDNN, LAID_OUT = "native", "onednn", "laid out"
FILLED: Final = 4  # rows that oneDNN multiplies faster than one, on the CPUs seen
CLEARLY: Final = 1.05  # by how much another product has to be faster to be taken
_SIZE, _BYTES, _ROUNDS = (2048, 4096), 256 * 2**20, 4


@final
@dataclass(frozen=True)
class Products:
    """What rows are multiplied by weights with: torch's own product ("native"), oneDNN's, or oneDNN's with weights laid out."""

    alone: str  # a single row
    several: str  # more of them
    fewest: int  # laid-out weights meet at least so many rows: fewer are filled up
    speed: Mapping[str, float]  # gigabytes of weights a second, by product and rows

    def to_text(self) -> dict[str, str]:
        """For records: what was measured decides the last bits of bfloat16 results. Empty where nothing was."""
        return {"products": f"one row {self.alone}, more {self.several}"} if self.speed else {}

    def lays_out(self, rows: int) -> bool:
        return (self.alone if rows == 1 else self.several) == LAID_OUT

    def native(self, rows: int) -> bool:
        return (self.alone if rows == 1 else self.several) == NATIVE


STORED: Final = Products(ONEDNN, ONEDNN, 1, {})  # weights as they are stored, through whatever torch takes by itself


def products(dtype: torch.dtype, device: torch.device, size: int) -> Products:
    """For a model with `size` bytes of weights."""
    if device.type != "cpu" or size < SMALL or dtype not in (torch.bfloat16, torch.float32):
        return STORED
    return _measured(dtype, torch.get_num_threads())


@contextmanager
def native(on: bool) -> Iterator[None]:
    """Within it, if `on`, products are torch's own. The setting is the process's."""
    onednn: Any = torch.backends.mkldnn
    before = onednn.enabled
    if not on or not before:
        yield
        return
    onednn.enabled = False
    try:
        yield
    finally:
        onednn.enabled = before


@cache
def _measured(dtype: torch.dtype, threads: int) -> Products:  # noqa: ARG001 (speeds are those of so many threads)
    with torch.inference_mode():
        return chosen(_speeds(dtype))


def chosen(speed: Mapping[str, float]) -> Products:
    """By gigabytes a second of every product that there is, named "native 1", "onednn 4", "laid out 16"."""
    laid = f"{LAID_OUT} {FILLED}" in speed
    fewest = FILLED if laid and speed[f"{LAID_OUT} {FILLED}"] > CLEARLY * speed[f"{LAID_OUT} 1"] else 1
    one = {name: speed[f"{name} 1"] for name in (ONEDNN, NATIVE)}
    if laid:
        one[LAID_OUT] = speed[f"{LAID_OUT} {fewest}"]
    # Weights that are not laid out cost no memory, and torch's usual product is what other programs run.
    alone = NATIVE if one[NATIVE] > CLEARLY * one[ONEDNN] else ONEDNN
    if laid and one[LAID_OUT] > CLEARLY * one[alone]:
        alone = LAID_OUT
    gains = [speed[f"{LAID_OUT} {rows}"] / speed[f"{ONEDNN} {rows}"] for rows in (FILLED, 16)] if laid else []
    several = LAID_OUT if gains and statistics.geometric_mean(gains) > CLEARLY else ONEDNN
    return Products(alone, several, fewest, speed)


def _speeds(dtype: torch.dtype) -> dict[str, float]:
    count = max(1, _BYTES // (_SIZE[0] * _SIZE[1] * dtype.itemsize))
    stored = [torch.ones(_SIZE, dtype=dtype) for _ in range(count)]
    found = {}
    for name, rows in ((ONEDNN, 1), (NATIVE, 1), (ONEDNN, FILLED), (ONEDNN, 16)):
        with native(name == NATIVE):
            found[f"{name} {rows}"] = _speed(stored, rows, lambda weight, x: linear(x, weight))
    if can_lay_out(dtype):
        laid = []
        while stored:
            laid.append(LaidOutWeight(stored.pop()))
        for rows in (1, FILLED, 16):
            found[f"{LAID_OUT} {rows}"] = _speed(laid, rows, lambda weight, x: weight(x))
    return found


def _speed(weights: Sequence[Any], rows: int, product: Callable[[Any, Tensor], Tensor]) -> float:
    x = torch.ones(rows, _SIZE[1], dtype=weights[0].dtype)
    seconds = []
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        for weight in weights:
            product(weight, x)
        seconds.append(time.perf_counter() - began)
    size: int = sum(weight.nbytes for weight in weights)
    return size / 1e9 / min(seconds[1:])
