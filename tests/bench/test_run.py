"""The driver calls its listener in order, and keeps all results before it shows them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch

from regrow.bench import shapes
from regrow.bench.bench_result import Result
from regrow.bench.contenders import methods
from regrow.bench.machine import bandwidth
from regrow.bench.rounds import Contender, Runner, Setting
from regrow.bench.run import BenchPlan, Listener, run
from regrow.bench.shapes import Shape
from regrow.errors import UsageError

SETTINGS = [Setting(1, 4, 6), Setting(2, 4, 6)]
PLAN: dict[str, Any] = {
    "model": None,
    "shapes": ["one", "other"],
    "methods": methods(["griffin"], "0.5"),
    "settings": SETTINGS,
    "repeats": 1,
    "sparsity": "0.5",
    "turnover": None,
    "dtype": "float32",
    "device": torch.device("cpu"),
}


class Log(Listener):
    """Records the calls that it gets, `keep` included."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def begin(self, result: Result) -> None:
        self.told.append(("begin", len(result.rows)))

    def bounds(self, model: str, bounds: Sequence[Any]) -> None:
        self.told.append(("bounds", model, [(bound.label, bound.rows) for bound in bounds]))

    def working(self, on: str, what: str) -> None:
        """Not recorded: there are too many of these calls."""

    def rows(self, rows: Sequence[Any], lost: Sequence[Any]) -> None:
        self.told.append(("rows", rows[0].model, rows[0].rows, len(lost)))

    def end(self, result: Result) -> None:
        self.told.append(("end", len(result.rows)))

    def keep(self, result: Result) -> None:
        self.told.append(("keep", len(result.rows)))


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("regrow.bench.run.bandwidth", partial(bandwidth, megabytes=1, repeats=1))
    for name in ("one", "other"):
        monkeypatch.setitem(shapes.SHAPES, name, Shape(name, "qwen2", 2, 32, 48, 4, 2, 8, 100, True))  # type: ignore[misc]


def test_every_setting_of_every_shape_is_kept_and_then_told() -> None:
    log = Log()
    result = run(BenchPlan(**PLAN), log, log.keep)
    contenders = 4  # dense, GRIFFIN, transformers' own loop twice
    bounds = [(label, rows) for rows in (1, 2) for label in ("dense", "griffin")]
    assert log.told == [
        ("begin", 0),
        ("bounds", "one", bounds),
        ("keep", contenders),
        ("rows", "one", 1, 0),
        ("keep", 2 * contenders),
        ("rows", "one", 2, 0),
        ("bounds", "other", bounds),
        ("keep", 3 * contenders),
        ("rows", "other", 1, 0),
        ("keep", 4 * contenders),
        ("rows", "other", 2, 0),
        ("end", 4 * contenders),
    ]
    own = {
        "sparsity": 0.5,
        "dtype": "float32",
        "repeats": 1,
        "methods": ["dense", "griffin"],
        "turnover": None,
        "untimed": [],
        "weights": "stored",
    }
    assert result.settings == own


@pytest.mark.parametrize(("device", "memory"), [("cpu", "read"), ("cuda", "copy")])
def test_the_share_of_bandwidth_is_of_what_the_device_reads_best(
    device: str, memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[float] = []

    class CaughtError(Exception):
        pass

    def caught(name: str, model: Any, contenders: Any, speed: float, turnover: Any) -> None:
        given.append(speed)
        raise CaughtError

    monkeypatch.setattr("regrow.bench.run.bandwidth", lambda _: {"read": 1.0, "copy": 2.0})
    monkeypatch.setattr("regrow.bench.run.device_name", str)
    monkeypatch.setattr("regrow.bench.run._model", lambda plan, name: (None, None))
    monkeypatch.setattr("regrow.bench.run.contenders", lambda model, methods, peers, stock: [])
    monkeypatch.setattr("regrow.bench.run.Benchmark", caught)
    with pytest.raises(CaughtError):
        run(BenchPlan(**PLAN | {"device": torch.device(device)}), Log(), lambda _: None)
    assert given == [{"read": 1.0, "copy": 2.0}[memory]]


@pytest.mark.parametrize(
    ("changed", "said"),
    [({"shapes": ["huge"]}, "unknown shape 'huge'"), ({"dtype": "int8"}, "unknown dtype 'int8'")],
)
def test_a_plan_of_something_unknown_is_refused_before_anything_runs(
    changed: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        BenchPlan(**PLAN | changed)


def test_random_prompts_hold_no_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Token 0 is the padding of every contender, and a prompt that ends with it would be refused."""
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(Runner, "_run", lambda self, contender, ids, *_: seen.append(ids))
    model = shapes.SHAPES["one"].build(torch.float32, torch.device("cpu"))
    Runner(model, None).measure([Contender("dense")], Setting(16, 64, 6), 1, lambda _: None)
    assert len(seen) == 2
    assert seen[0].min() == 1
    assert seen[0].max() == 99
