"""Tests k = floor((1 - rho) F) against rational arithmetic, for every decimal that a user can write."""

from __future__ import annotations

import math
import re
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from regrow.errors import UsageError
from regrow.selection.budget import keep_count, parse_sparsity


def exact(text: str, neurons: int) -> int:
    """Return floor((1 - rho) F) of a written decimal."""
    return math.floor((1 - Fraction(text)) * neurons)


@pytest.mark.parametrize("sparsity", [0.9, "0.9", Decimal("0.9"), "9e-1"])
def test_nine_tenths_of_8960_leave_896(sparsity: Any) -> None:
    assert math.floor((1 - 0.9) * 8960) == 895  # the result in binary floats
    assert keep_count(parse_sparsity(sparsity), 8960) == 896


@pytest.mark.parametrize("neurons", [100, 1000, 8960, 11008, 14336])
def test_every_hundredth_is_exact_however_it_is_written(neurons: int) -> None:
    for hundredths in range(100):
        want = (100 - hundredths) * neurons // 100
        for sparsity in (hundredths / 100, f"0.{hundredths:02d}", Decimal(hundredths) / 100):
            assert keep_count(parse_sparsity(sparsity), neurons) == want


def check(text: str, value: Any, neurons: int) -> None:
    """Assert that k is exact, or refused if it would be 0."""
    want = exact(text, neurons)
    if want:
        assert keep_count(parse_sparsity(value), neurons) == want
    else:
        with pytest.raises(UsageError, match=f"keeps none of {neurons} neurons"):
            keep_count(parse_sparsity(value), neurons)


@given(st.integers(0, 10**15 - 1), st.integers(1, 20_000))
def test_decimals_of_fifteen_digits_are_exact(digits: int, neurons: int) -> None:
    text = f"0.{digits:015d}"
    check(text, text, neurons)
    check(text, float(text), neurons)  # a float of up to fifteen digits is read back as written
    check(text, Decimal(text), neurons)


@given(
    st.integers(1, 40).flatmap(lambda places: st.tuples(st.integers(0, 10**places - 1), st.just(places))),
    st.integers(1, 20_000),
)
@example((1, 30), 8)
def test_decimals_of_any_length_are_exact(decimal: tuple[int, int], neurons: int) -> None:
    text = f"{decimal[0]}e-{decimal[1]}"
    check(text, text, neurons)


@given(st.floats(0, 1, exclude_max=True), st.integers(1, 20_000))
@example(1e-30, 8)
def test_floats_are_their_shortest_decimals(sparsity: float, neurons: int) -> None:
    check(repr(sparsity), sparsity, neurons)


def test_the_precision_of_the_callers_decimal_context_does_not_matter() -> None:
    with localcontext() as context:
        context.prec = 2
        assert keep_count(parse_sparsity("0.1234"), 8960) == exact("0.1234", 8960)


REFUSED = [
    -0.1,
    "-1e-9",
    1,
    1.0,
    "1",
    "1.5",
    2,
    math.nan,
    math.inf,
    -math.inf,
    "half",
    "",
    "0,5",
    "50%",
    True,
    False,
    None,
    [0.5],
]


@pytest.mark.parametrize("sparsity", REFUSED, ids=repr)
def test_anything_but_a_number_in_zero_to_one_is_refused(sparsity: Any) -> None:
    with pytest.raises(UsageError, match=re.escape(f"sparsity must be a number in [0, 1), not {sparsity!r}")):
        parse_sparsity(sparsity)


@pytest.mark.parametrize("sparsity", [0, 0.0, "0", "0.000"])
def test_zero_keeps_all(sparsity: Any) -> None:
    assert not parse_sparsity(sparsity)
    assert keep_count(parse_sparsity(sparsity), 7) == 7


@pytest.mark.parametrize("neurons", [1, 2, 3, 7, 64, 2816, 8960, 18944])
def test_the_refusal_of_none_names_a_sparsity_that_works(neurons: int) -> None:
    with pytest.raises(UsageError, match="keeps none") as refusal:
        keep_count(Decimal("0.999999"), neurons)
    advised = re.findall(r"at most (\S+)$", str(refusal.value))
    assert keep_count(parse_sparsity(advised[0]), neurons) == 1
