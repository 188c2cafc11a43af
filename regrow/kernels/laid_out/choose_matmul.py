"""Chooses the matmul for a few rows on this CPU, torch's, oneDNN's or our own, by measuring them.

The measurement runs once per process, on more weights than the CPU's caches hold. Within `repeatable_matmul`
nothing is measured, because two measurements need not agree, and another matmul rounds differently.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Final, final

import torch
from torch import Tensor
from torch.nn.functional import linear

from regrow.kernels.laid_out.weight import MOST, LaidOutWeight, can_lay_out, few_rows_are_right

SMALL: Final = 64 * 2**20  # bytes of weights that may fit into a cache, where the layout does not matter
NATIVE, ONEDNN, LAID_OUT, COMPILED = "native", "onednn", "laid out", "compiled"
FILLED: Final = 4  # rows to pad a single row to: oneDNN multiplied them faster on the CPUs that were tried
ROWS: Final = (1, FILLED, 16)  # numbers of rows that are measured
CLEARLY: Final = 1.05  # factor by which another matmul has to be faster to be chosen
_SIZE, _BYTES, _ROUNDS = (2048, 4096), 256 * 2**20, 4
_REPEATABLE: Final = ContextVar("repeatable", default=False)


@final
@dataclass(frozen=True)
class MatmulChoice:
    """The matmul for single rows and for several rows.

    It is torch's own ("native"), oneDNN's ("onednn"), oneDNN's with laid-out weights ("laid out"), or our own
    with laid-out weights ("compiled").
    """

    alone: str  # matmul for a single row
    several: str  # matmul for several rows
    fewest: int  # oneDNN multiplies laid-out weights by at least this many rows; fewer are padded
    most: int  # our own matmul multiplies laid-out weights by up to this many rows
    speed: Mapping[str, float]  # gigabytes of weights per second, by matmul and rows

    def to_text(self) -> dict[str, str]:
        """Describes the choice for records, because it decides the last bits of bfloat16 results.

        Empty for the matmul that is torch's default.
        """
        return {} if self == STORED else {"products": f"one row {self.alone}, more {self.several}"}

    def lays_out(self, rows: int) -> bool:
        """Returns True if the matmul for `rows` rows reads laid-out weights."""
        return (self.alone if rows == 1 else self.several) in (LAID_OUT, COMPILED)

    def native(self, rows: int) -> bool:
        """Returns True if the matmul for `rows` rows is torch's own, without oneDNN."""
        return (self.alone if rows == 1 else self.several) == NATIVE


# Weights as the model stores them, with torch's default matmul.
STORED: Final = MatmulChoice(ONEDNN, ONEDNN, 1, 0, {})


def choose_matmul(dtype: torch.dtype, device: torch.device, size: int) -> MatmulChoice:
    """Returns the matmul for a model with `size` bytes of weights.

    Returns STORED for devices other than the CPU, models smaller than SMALL, and dtypes other than bfloat16
    and float32. Within `repeatable_matmul` the choice depends on the CPU and the dtype alone.
    """
    if device.type != "cpu" or size < SMALL or dtype not in (torch.bfloat16, torch.float32):
        return STORED
    if _REPEATABLE.get():
        if not can_lay_out(dtype):
            return STORED
        own = few_rows_are_right(dtype)
        return (
            MatmulChoice(COMPILED, COMPILED, 1, MOST, {})
            if own
            else MatmulChoice(LAID_OUT, LAID_OUT, 1, 0, {})
        )
    return _measured(dtype, torch.get_num_threads())


def has_instructions(dtype: torch.dtype) -> bool:
    """Returns False for bfloat16 if oneDNN has no instructions of this CPU for its matmuls.

    Matmuls of several rows then take longer than in float32. Returns True if this build of torch does not
    say, and for other dtypes, of which nothing was measured.
    """
    ask = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return dtype is not torch.bfloat16 or ask is None or bool(ask())


@contextmanager
def repeatable_matmul() -> Iterator[None]:
    """Makes `choose_matmul` choose without measuring, so that equal runs on one machine are equal."""
    token = _REPEATABLE.set(True)
    try:
        yield
    finally:
        _REPEATABLE.reset(token)


@contextmanager
def native(on: bool) -> Iterator[None]:
    """Disables oneDNN within the context if `on`, so that matmuls are torch's own. The setting is global."""
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
def _measured(dtype: torch.dtype, threads: int) -> MatmulChoice:  # noqa: ARG001 (part of the cache's key)
    with torch.inference_mode():
        return chosen(_speeds(dtype))


def chosen(speed: Mapping[str, float]) -> MatmulChoice:
    """Chooses the matmul from `speed`, the gigabytes of weights per second of every available one.

    A key consists of matmul and rows, such as "native 1", "onednn 4" and "laid out 16".
    """
    laid_out, fewest = None, 1
    if f"{LAID_OUT} 1" in speed:
        laid_out = LAID_OUT
        fewest = FILLED if speed[f"{LAID_OUT} {FILLED}"] > CLEARLY * speed[f"{LAID_OUT} 1"] else 1
        if f"{COMPILED} 1" in speed and _gain(speed, COMPILED, LAID_OUT, ROWS) > 1:
            laid_out = COMPILED
    one = {name: speed[f"{name} 1"] for name in (ONEDNN, NATIVE)}
    if laid_out:
        one[laid_out] = speed[f"{laid_out} {fewest if laid_out == LAID_OUT else 1}"]
    # Stored weights take no extra memory, and torch's default matmul is what other programs use, so laid-out
    # weights have to be clearly faster.
    several = laid_out if laid_out and _gain(speed, laid_out, ONEDNN, ROWS[1:]) > CLEARLY else ONEDNN
    alone = NATIVE if one[NATIVE] > CLEARLY * one[ONEDNN] else ONEDNN
    # If several rows need laid-out weights anyway, a single row uses them too, unless that is clearly slower.
    if laid_out and one[laid_out] > (1 / CLEARLY if several == laid_out else CLEARLY) * one[alone]:
        alone = laid_out
    return MatmulChoice(alone, several, fewest, MOST if laid_out == COMPILED else 0, speed)


def _gain(speed: Mapping[str, float], name: str, baseline: str, rows: Sequence[int]) -> float:
    return statistics.geometric_mean(
        speed[f"{name} {number}"] / speed[f"{baseline} {number}"] for number in rows
    )


def _speeds(dtype: torch.dtype) -> dict[str, float]:
    """Measures all matmuls in turn, so that a disturbance of the machine does not fall on one alone."""
    count = max(1, _BYTES // (_SIZE[0] * _SIZE[1] * dtype.itemsize))
    stored = [torch.ones(_SIZE, dtype=dtype) for _ in range(count)]
    laid = [LaidOutWeight(weight) for weight in stored] if can_lay_out(dtype) else []
    plain = [partial(linear, weight=weight) for weight in stored]
    runs = [(NATIVE, 1), *((ONEDNN, rows) for rows in ROWS)]
    runs += [(LAID_OUT, rows) for rows in ROWS if laid]
    runs += [(COMPILED, rows) for rows in ROWS if laid and few_rows_are_right(dtype)]
    seconds: dict[tuple[str, int], list[float]] = {run: [] for run in runs}
    for _ in range(_ROUNDS):
        for name, rows in runs:
            x = torch.ones(rows, _SIZE[1], dtype=dtype)
            for one in laid:
                one.most = MOST if name == COMPILED else 0
            matmuls: Sequence[Callable[[Tensor], Tensor]] = plain if name in (NATIVE, ONEDNN) else laid
            with native(name == NATIVE):
                began = time.perf_counter()
                for matmul in matmuls:
                    matmul(x)
                seconds[name, rows].append(time.perf_counter() - began)
    size: int = sum(weight.nbytes for weight in stored)
    return {f"{name} {rows}": size / 1e9 / min(found[1:]) for (name, rows), found in seconds.items()}
