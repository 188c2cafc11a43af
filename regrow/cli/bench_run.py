"""A benchmark from the first number to the last, one model after another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch

from regrow.bench.bandwidth import bandwidth
from regrow.bench.contenders import contenders
from regrow.bench.decode import Setting
from regrow.bench.result import Result
from regrow.bench.run import Benchmark, device_name
from regrow.bench.shapes import shape
from regrow.bench.turnover import bundled_turnover
from regrow.cli.bar import Bar
from regrow.cli.bench_view import View
from regrow.cli.loading import load
from regrow.errors import UsageError
from regrow.method.base import Method
from regrow.models import DTYPES
from regrow.versions import versions


@final
@dataclass(frozen=True)
class Plan:
    model: str | None  # a directory or hub id; None: random weights of the shapes
    shapes: Sequence[str]
    methods: Mapping[str, Method]
    settings: Sequence[Setting]
    repeats: int
    sparsity: str
    turnover: float | None  # None: the bundled model's for shapes, a model's own otherwise
    dtype: str
    device: torch.device
    trust_remote_code: bool

    def __post_init__(self) -> None:
        """Raises UsageError for an unknown shape or dtype."""
        for name in self.shapes:
            shape(name)
        if self.dtype not in DTYPES:
            raise UsageError(f"unknown dtype {self.dtype!r}; choose one of {', '.join(DTYPES)}")


def run(plan: Plan, view: View, keep: Callable[[Result], None]) -> None:
    """`keep` is given what there is after every batch size."""
    result = Result(
        {**versions(), "device": device_name(plan.device)},
        bandwidth(plan.device),
        {"sparsity": float(plan.sparsity), "dtype": plan.dtype, "repeats": plan.repeats, "methods": list(plan.methods)},
    )
    view.begin(result)
    with Bar() as bar:
        result.settings["turnover"] = turnover = _turnover(plan, bar)
        for name in [plan.model] if plan.model else plan.shapes:
            benchmark = _benchmark(plan, name, result.bandwidth["read"], turnover)
            view.bounds(name, [bound for setting in plan.settings for bound in benchmark.bounds(setting)])
            for setting in plan.settings:
                bar.begin(name, 1)
                rows = benchmark.measure(setting, plan.repeats, lambda what: bar.show(0, what))
                lost = benchmark.lost(setting, rows)
                result.rows.extend(rows)
                result.lost.extend(lost)
                keep(result)
                with bar.aside():
                    view.rows(rows, lost)
    view.end(result)


def _turnover(plan: Plan, bar: Bar) -> float | None:
    if plan.turnover is not None or plan.model or "bap" not in plan.methods:
        return plan.turnover
    bar.begin("how much the bundled model's masks change", 1)
    return bundled_turnover(plan.sparsity)


def _benchmark(plan: Plan, name: str, memory: float, turnover: float | None) -> Benchmark:
    if plan.model:
        network = load(plan.model, dtype=plan.dtype, device=str(plan.device), trust_remote_code=plan.trust_remote_code).model
    else:
        network = shape(name).build(torch.bfloat16 if plan.dtype == "auto" else getattr(torch, plan.dtype), plan.device)
    return Benchmark(name, network, contenders(network, plan.methods), memory, turnover)
