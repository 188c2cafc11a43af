"""The window that pays is chosen, from costs and from agreement."""

from __future__ import annotations

import copy
import itertools
import json
import math
import pickle
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import regrow
from regrow.bench.lossless.result import LosslessResult
from regrow.decoding.window import PROBE_SHARE, WINDOWS, WINS, AdaptiveWindow, Costs, Measurement

RESULTS = Path(__file__).parents[2] / "results" / "lossless"
CHEAP = Costs(1.0, 0.3, {1: 1.0, 2: 1.05, 4: 1.1, 8: 1.2, 16: 1.5})
DEAR = Costs(1.0, 0.9, {1: 1.6, 2: 2.2})


def seconds_a_token(costs: Costs, window: int, agreement: float, checks: int = 4000) -> float:
    """Simulate checks of drafts that are right with the chance `agreement`."""
    drawn, tokens = random.Random(0), 0
    for _ in range(checks):
        right = next((n for n in range(window) if drawn.random() >= agreement), window)
        tokens += right + 1
    return checks * (window * costs.draft + costs.check[window]) / tokens


@pytest.mark.parametrize("agreement", [0.0, 0.4, 0.8, 0.98, 1.0])
def test_the_gain_is_what_simulated_checks_give(agreement: float) -> None:
    for window in WINDOWS:
        expected = CHEAP.dense / CHEAP.gain(window, agreement)
        assert seconds_a_token(CHEAP, window, agreement) == pytest.approx(expected, rel=0.04)


def test_the_best_window_grows_with_agreement_and_is_none_without() -> None:
    assert [CHEAP.best(agreement) for agreement in (0.0, 0.3, 0.6, 0.9, 0.99)] == [0, 0, 1, 4, 16]
    assert all(DEAR.best(agreement / 10) == 0 for agreement in range(11))
    assert Costs(1.0, 0.0, {}).best(1.0) == 0


def measured(costs: Callable[[int], tuple[float, float]]) -> tuple[Measurement, list[int]]:
    """Measure passes whose seconds of drafting and checking `costs` returns."""
    measurement, asked = Measurement(), []
    while measurement.measuring:
        asked.append(measurement.next)
        measurement.took(asked[-1], *costs(asked[-1]))
    return measurement, asked


def test_every_window_is_measured_three_times_and_the_first_time_does_not_count() -> None:
    calls: list[int] = []

    def costs(window: int) -> tuple[float, float]:
        calls.append(window)
        slow = 9.0 if calls.count(window) < 3 else 1.0  # and of the others the faster one counts
        return slow * 0.25 * window, slow * (1 + window / 100)

    measurement, asked = measured(costs)
    assert asked == [0, 1] * 3 + [2, 0, 2, 0, 2, 4, 0, 4, 0, 4, 8, 0, 8, 0, 8, 16, 0, 16, 0, 16]
    want = Costs(1.0, 0.25, {window: 1 + window / 100 for window in WINDOWS})
    assert measurement.found == want


def test_what_is_seen_while_measuring_is_known_before_the_next_batch() -> None:
    measurement = Measurement()
    window = AdaptiveWindow(measurement)
    while window.measures:
        width = window.next()
        if width:
            window.saw(9 * width, width)  # drafts of several rows
        window.took(width, 0.1 * width, 1.0)
    assert measurement.found is not None
    assert measurement.found.agreement == pytest.approx(0.9)
    later = AdaptiveWindow(measurement)
    assert later.agreement == pytest.approx(window.agreement)
    assert later.costs == replace(measurement.found, agreement=window.agreement)
    before = later.costs
    for _ in range(50):
        later.saw(0, 1)
    assert later.costs == before  # what a rerun of this batch has to begin with
    assert AdaptiveWindow(measurement).agreement == pytest.approx(later.agreement)
    assert later.agreement < 0.2


def run_batch(
    window: AdaptiveWindow, costs: Costs, agreement: float, passes: int, rows: int = 1, seed: int = 0
) -> tuple[float, float]:
    """Return seconds and tokens a row of passes whose drafts are right with a fixed chance."""
    drawn, seconds, tokens = random.Random(seed), 0.0, 0.0
    for _ in range(passes):
        width = window.next()
        kept = [next((n for n in range(width) if drawn.random() >= agreement), width) for _ in range(rows)]
        drafting, checking = width * costs.draft, costs.check[width] if width else costs.dense
        seconds, tokens = seconds + drafting + checking, tokens + sum(kept) / rows + 1
        if width:
            window.saw(sum(kept), sum(right < width for right in kept))
        if window.measures:
            window.took(width, drafting, checking)
    return seconds, tokens


def test_windows_that_the_agreement_rules_out_are_not_measured() -> None:
    """n-grams at batch 16 of the real model: checks grow with every draft, and few drafts are right."""
    costs = Costs(1.0, 0.0, {1: 1.8, 2: 2.7, 4: 4.8, 8: 8.3, 16: 16.1})
    measurement = Measurement()
    seconds, tokens = run_batch(AdaptiveWindow(measurement), costs, 0.4, 250, rows=16)
    assert measurement.found is not None
    assert list(measurement.found.check) == [1]
    assert seconds < tokens * (1.03 + PROBE_SHARE)  # the measurement included


def test_measuring_goes_on_once_the_agreement_allows_larger_windows() -> None:
    costs = Costs(1.0, 0.1, {1: 1.2, 2: 1.4, 4: 1.8, 8: 2.6, 16: 4.2})
    measurement = Measurement()
    run_batch(AdaptiveWindow(measurement), costs, 0.0, 60, rows=4)
    assert measurement.found is not None
    assert list(measurement.found.check) == [1]
    window = AdaptiveWindow(measurement)
    run_batch(window, costs, 1.0, 1500)
    assert list(measurement.found.check) == list(WINDOWS)
    assert window.next() == 16
    assert measurement.found == replace(costs, agreement=measurement.found.agreement)


def test_costs_that_were_given_are_not_measured_again() -> None:
    window = AdaptiveWindow(Measurement.of(Costs(1.0, 0.0, {1: 1.0, 2: 1.0}, 1.0)))
    assert [window.next() for _ in range(9)] == [2] * 9
    assert not window.measures


def test_drafts_that_cost_nothing_now_and_then_are_not_taken_for_all() -> None:
    """A cascade drafts from the text where it repeats itself."""
    measurement, asked = Measurement(), []
    while measurement.measuring:
        asked.append(measurement.next)
        free = asked.count(asked[-1]) == 3 and asked[-1] == 1
        measurement.took(asked[-1], 0.0 if free else 0.3 * asked[-1], 1.0)
    assert measurement.found is not None
    assert measurement.found.draft == pytest.approx(0.3)


def test_windows_are_left_out_once_they_cannot_win() -> None:
    measurement, asked = measured(lambda window: (0.9 * window, 1 + 0.6 * window))
    assert asked == [0, 1] * 3 + [2, 0, 2, 0, 2]
    assert measurement.found == Costs(1.0, 0.9, {1: 1.6, 2: 2.2})
    # Small windows lose here, and larger ones win.
    _, asked = measured(lambda window: (0.1 * window, 1.0 if window == 0 else 1.95))
    assert asked[-1] == 16


@given(
    draft=st.floats(0, 1.5),
    slope=st.floats(0, 1),
    first=st.floats(0.9, 2),
    agreement=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_a_batch_is_hardly_slower_than_dense(
    draft: float, slope: float, first: float, agreement: float, seed: int
) -> None:
    """Over a long batch, with drafts that are right with a fixed chance.

    3 % and what trials may cost, and what was lost until the agreement was known.
    """
    costs = Costs(1.0, draft, {window: first + slope * window for window in WINDOWS})
    window, drawn = AdaptiveWindow(Measurement.of(costs)), random.Random(seed)
    seconds, tokens = 0.0, 0
    while tokens < 3000:
        width = window.next()
        right = next((n for n in range(width) if drawn.random() >= agreement), width)
        seconds += width * draft + costs.check[width] if width else 1.0
        tokens += right + 1
        window.saw(right, int(right < width))
    assert seconds < (1.03 + PROBE_SHARE) * tokens + 40


def measured_costs() -> list[Any]:
    """Return the costs of every draft and batch size that was timed, without gaps for large windows."""
    found = []
    for path in sorted(RESULTS.glob("r*.json")):
        for row in LosslessResult.load(path).rows:
            if row.costs:
                costs = Costs.from_dict(row.costs)
                (before, less), (last, seconds) = [(0, costs.dense), *costs.check.items()][-2:]
                slope = max(0.0, (seconds - less) / (last - before))
                larger = {width: seconds + slope * (width - last) for width in WINDOWS if width > last}
                whole = replace(costs, check={**costs.check, **larger})
                found.append(pytest.param(whole, row.rows, id=f"{path.stem}-{row.rows}-{row.label}"))
    return found


@pytest.mark.parametrize("agreement", [0.0, 0.2, 0.5, 0.8])
@pytest.mark.parametrize(("costs", "rows"), measured_costs())
def test_a_batch_is_hardly_slower_than_dense_with_the_costs_of_real_cpus(
    costs: Costs, rows: int, agreement: float
) -> None:
    """The first batch measures, which costs some dense steps once. A later one keeps to 3 %."""
    for seed in range(3):
        measurement = Measurement()
        seconds, tokens = run_batch(AdaptiveWindow(measurement), costs, agreement, 60, rows, seed)
        assert measurement.found is not None
        assert seconds < (1.03 * tokens + 8) * costs.dense
        seconds, tokens = run_batch(AdaptiveWindow(measurement), costs, agreement, 256, rows, seed)
        assert seconds < 1.03 * tokens * costs.dense


def test_a_window_is_tried_again_after_dense_steps() -> None:
    costs = Costs(1.0, 0.2, {1: 1.1, 2: 1.2})
    window = AdaptiveWindow(Measurement.of(costs))
    for _ in range(100):
        window.saw(0, 1)
    chosen, explores = zip(*((window.next(), window.explores) for _ in range(200)), strict=True)
    assert set(chosen) == {0, 1}
    trials = [step for step, width in enumerate(chosen) if width]
    assert [step + 1 for step, exploring in enumerate(explores) if exploring] == trials
    apart = (0.2 + 1.1) / PROBE_SHARE
    gaps = [later - earlier for earlier, later in itertools.pairwise(trials)]
    assert gaps == pytest.approx([apart] * len(gaps), abs=1)
    for _ in range(200):
        window.saw(1, 0)
    assert window.next() == 2
    assert window.agreement > 0.9
    assert CHEAP.best(0.9) >= 4
    assert CHEAP.gain(4, 0.9) > WINS


def test_costs_survive_json_and_copies_and_have_a_hash() -> None:
    assert Costs.from_dict(json.loads(json.dumps(CHEAP.to_dict()))) == CHEAP
    lossless = regrow.Lossless(costs=CHEAP)
    for same in (copy.deepcopy(lossless), pickle.loads(pickle.dumps(lossless))):
        assert same == lossless
        assert hash(same) == hash(lossless)


@pytest.mark.parametrize(
    "given",
    [
        {"dense": 0.0},
        {"dense": math.nan},
        {"draft": math.inf},
        {"draft": -1.0},
        {"check": {1: 0.0}},
        {"check": {3: 1.0}},
        {"check": {0: 1.0}},
        {"agreement": 1.5},
    ],
)
def test_impossible_costs_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(regrow.UsageError, match=r"^costs "):
        Costs(**{"dense": 1.0, "draft": 0.1, "check": {1: 1.0}, **given})


@pytest.mark.parametrize(
    "values", [{}, {"dense": 1.0}, {**CHEAP.to_dict(), "check": {"x": 1.0}}, {"check": 3}]
)
def test_other_values_are_no_costs(values: dict[str, Any]) -> None:
    with pytest.raises(regrow.UsageError, match="these are no costs"):
        Costs.from_dict(values)


def test_impossible_values_are_named() -> None:
    with pytest.raises(regrow.UsageError, match="costs are positive numbers of seconds"):
        Costs.from_dict({**CHEAP.to_dict(), "dense": -1.0})
