"""Benchmark of one model: bounds from bytes first, then measured times."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

from transformers import PreTrainedModel

from regrow.bench.bench_result import BenchRow, Lost, Spread
from regrow.bench.rounds import Contender, Measured, Runner, Setting
from regrow.decoding.choose_network import Networks

BASELINE = "dense"  # dense decoding through Regrow's loop; every ratio is relative to it


@final
@dataclass(frozen=True)
class Bound:
    """What the bytes allow one contender at one batch size. It is computed, not measured."""

    label: str
    rows: int
    bytes_per_step: float  # mean over a period of the schedule
    ratio: float  # bytes of a dense step / `bytes_per_step`


@final
class Benchmark:
    """Compares contenders on one model."""

    def __init__(
        self,
        name: str,
        model: PreTrainedModel,
        contenders: Sequence[Contender],
        bandwidth: float,
        turnover: float | None,
    ) -> None:
        """`bandwidth`: bytes a second that the memory gives. `turnover`: see Runner."""
        self.name, self._contenders, self._bandwidth = name, contenders, bandwidth
        self.runner = Runner(model, turnover)
        self.matmul = Networks(model).matmul

    def bounds(self, setting: Setting) -> list[Bound]:
        """Returns a bound for each contender that is a method of Regrow."""
        dense = self.runner.bytes_dense(setting)
        found = []
        for contender in self._contenders:
            if contender.method is not None:
                size = self.runner.bytes_per_step(contender, setting)
                found.append(Bound(contender.label, setting.rows, size, dense / size))
        return found

    def measure(self, setting: Setting, repeats: int, progress: Callable[[str], None]) -> list[BenchRow]:
        """Measures every contender that fits in memory. Returns no rows if the baseline does not fit."""
        measured = self.runner.measure(self._contenders, setting, repeats, progress)
        if BASELINE not in measured:
            return []
        dense = measured[BASELINE].decode
        return [
            self._row(one, measured[one.label], dense, setting)
            for one in self._contenders
            if one.label in measured
        ]

    def lost(self, setting: Setting, rows: Sequence[BenchRow]) -> list[Lost]:
        """Returns the contenders that are missing in `rows`, the results of this setting."""
        there = {row.label for row in rows}
        size = (setting.rows, setting.prompt, setting.new)
        return [Lost(self.name, one.label, *size) for one in self._contenders if one.label not in there]

    def _row(
        self, contender: Contender, measured: Measured, dense: Sequence[float], setting: Setting
    ) -> BenchRow:
        size = self.runner.bytes_per_step(contender, setting, measured.sparsity)
        steps = setting.new - 1
        step = statistics.median(measured.decode) / steps
        return BenchRow(
            model=self.name,
            label=contender.label,
            rows=setting.rows,
            prompt=setting.prompt,
            new=setting.new,
            tokens_per_second=Spread.of([setting.rows * steps / seconds for seconds in measured.decode]),
            ratio=Spread.of([one / other for one, other in zip(dense, measured.decode, strict=True)]),
            ms={part: 1e3 * statistics.median(seconds) for part, seconds in measured.parts.items()},
            bytes_per_step=size,
            bound=self.runner.bytes_dense(setting) / size,
            bandwidth_share=size / step / self._bandwidth,
            turnover=measured.turnover,
            sparsity=measured.sparsity,
        )
