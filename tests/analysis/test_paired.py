from __future__ import annotations

import pytest

from regrow.analysis.paired import FLIPS, paired
from regrow.records import Grade, Mark


def grades(*rows: str) -> list[Grade]:
    """Return the grades of prompts: "110" has three problems, two of them right."""
    return [Grade(tuple(Mark("add", mark == "1", mark == "1") for mark in row)) for row in rows]


def alone(*rows: str) -> list[list[Grade]]:
    """Return batches of one prompt each."""
    return [[grade] for grade in grades(*rows)]


def test_no_difference() -> None:
    one = alone("110", "0", "11")
    found = paired(one, one)
    assert (found.difference, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_by_hand() -> None:
    """Gains of 1, 0, -1 and 2 over prompts of 2, 1, 2 and 3 problems."""
    found = paired(alone("11", "1", "00", "111"), alone("10", "1", "10", "100"))
    assert found.difference == 2 / 8
    residuals = [1 - 0.5, 0 - 0.25, -1 - 0.5, 2 - 0.75]
    half = 1.959963984540054 * (sum(r * r for r in residuals) * 4 / 3) ** 0.5 / 8
    assert (found.low, found.high) == pytest.approx((0.25 - half, 0.25 + half))
    # Signs of 1, 1, 2 draw sums of 4, 2, 2, 0 and their negatives: six of eight reach 2.
    assert found.p == pytest.approx(6 / 8, abs=4 * (0.25 / FLIPS) ** 0.5)


def test_ten_gains_of_one_are_rare() -> None:
    found = paired(alone(*["1"] * 10), alone(*["0"] * 10))
    assert (found.difference, found.low, found.high) == (1, 1, 1)
    assert found.p == pytest.approx(2 / 2**10, abs=5 * (2 / 2**10 / FLIPS) ** 0.5)


def test_the_other_way_round() -> None:
    one, other = alone("110", "01", "111"), alone("100", "11", "001")
    there, back = paired(one, other), paired(other, one)
    assert (back.difference, back.low, back.high, back.p) == (
        -there.difference,
        -there.high,
        -there.low,
        there.p,
    )


@pytest.mark.parametrize("other", [["1"], ["1", "11"], []])
def test_other_prompts_are_refused(other: list[str]) -> None:
    with pytest.raises(ValueError, match="not of the same batches"):
        paired(alone("1", "1"), alone(*other))


def test_a_batch_counts_as_one() -> None:
    """Four prompts in two batches with gains of 2: two of four sign flips reach 4, not two of sixteen."""
    one, other = grades("11", "1", "1", "1"), grades("01", "0", "0", "0")
    found = paired([one[:2], one[2:]], [other[:2], other[2:]])
    assert found.difference == 4 / 5
    assert found.p == pytest.approx(1 / 2, abs=5 * (0.25 / FLIPS) ** 0.5)


def test_other_batches_are_refused() -> None:
    one = grades("1", "1", "1")
    with pytest.raises(ValueError, match="not of the same batches"):
        paired([one[:2], one[2:]], [one[:1], one[1:]])
