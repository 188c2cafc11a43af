"""Runs a benchmark plan, one model after another, and keeps the results after every setting."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, final

import torch
from transformers import PreTrainedModel

from regrow.bench.bench_result import BenchRow, Lost, Result
from regrow.bench.benchmark import Benchmark, Bound
from regrow.bench.contenders import contenders
from regrow.bench.machine import bandwidth, device_name
from regrow.bench.rounds import Peer, Setting
from regrow.bench.shapes import shape
from regrow.bench.turnover import bundled_turnover
from regrow.bench.vllm import started, version_of
from regrow.errors import UsageError, require_one_of
from regrow.hosts.round_weights import round_weights
from regrow.method.base import Method
from regrow.models import DTYPES, WEIGHTS, labelled, load
from regrow.versions import versions


@final
@dataclass(frozen=True)
class BenchPlan:
    """What to measure: every method at every setting, on one model or on random weights of several shapes."""

    model: str | None  # directory or hub id; None: random weights of `shapes`
    shapes: Sequence[str]
    methods: Mapping[str, Method]
    settings: Sequence[Setting]
    repeats: int
    sparsity: str
    turnover: float | None  # see Runner; None: the bundled model's for shapes, otherwise the model's own
    dtype: str
    device: torch.device
    trust_remote_code: bool = False
    vllm: Path | None = None  # Python of an environment that has vLLM
    vllm_eager: bool = False
    untimed: Sequence[str] = ()  # methods left out because their time would say nothing
    weights: str = "stored"  # or "int4"
    stock: bool = (
        True  # also measure transformers' own loop, whose static cache compiles for a minute a batch size
    )

    def __post_init__(self) -> None:
        """Raises UsageError for unknown shapes, dtypes and weights, and for a Python without vLLM."""
        require_one_of(WEIGHTS, weights=self.weights)
        if self.vllm is not None and self.weights != "stored":
            raise UsageError("vLLM runs the stored weights; leave out vLLM, or the weights of 4 bits")
        if self.vllm is not None:
            version_of(self.vllm)
        for name in self.shapes:
            shape(name)
        require_one_of(DTYPES, dtype=self.dtype)


class Listener(Protocol):
    """Callbacks of a running benchmark. `bounds` and then `rows` are called for each model."""

    def begin(self, result: Result) -> None:
        """Called first, when the device and its memory bandwidth are known."""

    def bounds(self, model: str, bounds: Sequence[Bound]) -> None:
        """Called with the bounds of one model at every setting, before that model is measured."""

    def working(self, on: str, what: str) -> None:
        """Called when the work `what` begins on the model `on`. These calls come between all the others."""

    def rows(self, rows: Sequence[BenchRow], lost: Sequence[Lost]) -> None:
        """Called when a setting has been measured and its results are kept."""

    def end(self, result: Result) -> None:
        """Called last, with all results."""


def run(plan: BenchPlan, listener: Listener, keep: Callable[[Result], None]) -> Result:
    """Runs the plan, and calls `keep` with the results so far after every setting.

    Raises UsageError or RegrowError for a model that cannot be loaded or pruned.
    """
    result = Result(
        {**versions(), "device": device_name(plan.device)},
        bandwidth(plan.device),
        {
            "sparsity": float(plan.sparsity),
            "dtype": plan.dtype,
            "repeats": plan.repeats,
            "methods": list(plan.methods),
            "weights": plan.weights,
        },
    )
    result.settings["untimed"] = list(plan.untimed)
    listener.begin(result)
    result.settings["turnover"] = turnover = _turnover(plan, listener)
    for given in [plan.model] if plan.model else plan.shapes:
        name = labelled(given, plan.weights)
        listener.working(name, "loading")
        model, directory = _model(plan, given)
        if plan.weights == "int4":
            errors = result.settings.setdefault("rounding_error", {})
            errors[given] = round_weights(model, progress=partial(_rounded, listener, name))
        # On a GPU a sum falls short of the memory's bandwidth, so the copy is the measure there.
        speed = result.bandwidth["copy" if plan.device.type == "cuda" else "read"]
        with ExitStack() as stack:
            peers: dict[str, Peer] = {}
            if plan.vllm is not None:
                listener.working(name, "starting vLLM")
                worker = stack.enter_context(
                    started(plan.vllm, model, directory or given, plan.settings, eager=plan.vllm_eager)
                )
                result.made_with["vllm, torch there"] = worker.version
                peers[f"vLLM, {'eager' if plan.vllm_eager else 'compiled'}"] = worker
            found = contenders(model, plan.methods, peers, stock=plan.stock)
            _measure(plan, Benchmark(name, model, found, speed, turnover), result, listener, keep)
    listener.end(result)
    return result


def _measure(
    plan: BenchPlan, benchmark: Benchmark, result: Result, listener: Listener, keep: Callable[[Result], None]
) -> None:
    """Measures one model at every setting of the plan."""
    if benchmark.matmul.speed:
        result.settings["products"] = asdict(benchmark.matmul)
    listener.bounds(
        benchmark.name, [bound for setting in plan.settings for bound in benchmark.bounds(setting)]
    )
    for setting in plan.settings:
        rows = benchmark.measure(setting, plan.repeats, lambda what: listener.working(benchmark.name, what))
        lost = benchmark.lost(setting, rows)
        result.rows.extend(rows)
        result.lost.extend(lost)
        keep(result)
        listener.rows(rows, lost)


def _rounded(listener: Listener, name: str, done: int, layers: int) -> None:
    listener.working(name, f"rounding weights, {done} of {layers} layers")


def _turnover(plan: BenchPlan, listener: Listener) -> float | None:
    if plan.turnover is not None or plan.model or "bap" not in plan.methods:
        return plan.turnover
    listener.working("the bundled model", "how much its masks change")
    return bundled_turnover(plan.sparsity)


def _model(plan: BenchPlan, name: str) -> tuple[PreTrainedModel, Path | None]:
    """Returns the model, and the directory of its weights if it was loaded from one."""
    if plan.model:
        loaded = load(
            plan.model, dtype=plan.dtype, device=str(plan.device), trust_remote_code=plan.trust_remote_code
        )
        return loaded.model, loaded.directory
    return shape(name).build(
        torch.bfloat16 if plan.dtype == "auto" else getattr(torch, plan.dtype), plan.device
    ), None
