"""Which product a few rows take on this CPU, torch's or our own, measured once a process on weights that no cache holds."""

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

from regrow.kernels.laid_out.weight import MOST, LaidOutWeight, can_lay_out, few_rows_are_right

SMALL: Final = 64 * 2**20  # bytes of weights that a cache may hold: there the layout does not matter
NATIVE, ONEDNN, LAID_OUT, COMPILED = "native", "onednn", "laid out", "compiled"
FILLED: Final = 4  # rows that oneDNN multiplies faster than one, on the CPUs seen
ROWS: Final = (1, FILLED, 16)  # that are measured
CLEARLY: Final = 1.05  # by how much another product has to be faster to be taken
_SIZE, _BYTES, _ROUNDS = (2048, 4096), 256 * 2**20, 4


@final
@dataclass(frozen=True)
class MatmulChoice:
    """What rows are multiplied by weights with: torch's own product ("native"), oneDNN's, oneDNN's with weights laid out, or our own
    with them ("compiled")."""

    alone: str  # a single row
    several: str  # more of them
    fewest: int  # oneDNN's product with weights laid out meets at least so many rows: fewer are filled up
    most: int  # weights laid out are multiplied by our own product up to so many rows
    speed: Mapping[str, float]  # gigabytes of weights a second, by product and rows

    def to_text(self) -> dict[str, str]:
        """For records: what was measured decides the last bits of bfloat16 results. Empty where nothing was."""
        return {"matmul": f"one row {self.alone}, more {self.several}"} if self.speed else {}

    def lays_out(self, rows: int) -> bool:
        return (self.alone if rows == 1 else self.several) in (LAID_OUT, COMPILED)

    def native(self, rows: int) -> bool:
        return (self.alone if rows == 1 else self.several) == NATIVE


STORED: Final = MatmulChoice(
    ONEDNN, ONEDNN, 1, 0, {}
)  # weights as they are stored, through whatever torch takes by itself


def choose_matmul(dtype: torch.dtype, device: torch.device, size: int) -> MatmulChoice:
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
def _measured(dtype: torch.dtype, threads: int) -> MatmulChoice:  # noqa: ARG001 (speeds are those of so many threads)
    with torch.inference_mode():
        return chosen(_speeds(dtype))


def chosen(speed: Mapping[str, float]) -> MatmulChoice:
    """By gigabytes a second of every product that there is, named "native 1", "onednn 4", "laid out 16"."""
    laid_out, fewest = None, 1
    if f"{LAID_OUT} 1" in speed:
        laid_out = LAID_OUT
        fewest = FILLED if speed[f"{LAID_OUT} {FILLED}"] > CLEARLY * speed[f"{LAID_OUT} 1"] else 1
        if f"{COMPILED} 1" in speed and _gain(speed, COMPILED, LAID_OUT, ROWS) > 1:
            laid_out = COMPILED
    one = {name: speed[f"{name} 1"] for name in (ONEDNN, NATIVE)}
    if laid_out:
        one[laid_out] = speed[f"{laid_out} {fewest if laid_out == LAID_OUT else 1}"]
    # Weights that are not laid out cost no memory, and torch's usual product is what other programs run.
    several = laid_out if laid_out and _gain(speed, laid_out, ONEDNN, ROWS[1:]) > CLEARLY else ONEDNN
    alone = NATIVE if one[NATIVE] > CLEARLY * one[ONEDNN] else ONEDNN
    # Those that batches of several rows have laid out stay so, unless that is clearly slower.
    if laid_out and one[laid_out] > (1 / CLEARLY if several == laid_out else CLEARLY) * one[alone]:
        alone = laid_out
    return MatmulChoice(alone, several, fewest, MOST if laid_out == COMPILED else 0, speed)


def _gain(speed: Mapping[str, float], of: str, over: str, rows: Sequence[int]) -> float:
    return statistics.geometric_mean(speed[f"{of} {number}"] / speed[f"{over} {number}"] for number in rows)


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
        for name, most in ((LAID_OUT, 0), (COMPILED, MOST))[: 1 + few_rows_are_right(dtype)]:
            for weight in laid:
                weight.most = most
            for rows in ROWS:
                found[f"{name} {rows}"] = _speed(laid, rows, lambda weight, x: weight(x))
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
