"""The k largest entries of every row: always k of them, and ties go to the lower index."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from regrow.selection.index_set import largest


@given(
    st.lists(
        st.lists(
            st.sampled_from([-1.0, 0.0, 1e-30, 0.5, 0.5000001, 2.0, float("inf")]), min_size=9, max_size=9
        ),
        min_size=1,
    ),
    st.integers(1, 9),
)
def test_the_largest_are_those_of_a_stable_sort(rows: list[list[float]], keep: int) -> None:
    score = torch.tensor(rows)
    order = torch.sort(score, dim=-1, descending=True, stable=True).indices[:, :keep]
    assert torch.equal(
        largest(score, keep), torch.zeros_like(score, dtype=torch.bool).scatter_(1, order, True)
    )


def test_as_many_are_largest_where_some_are_no_numbers() -> None:
    """After an overflow the set keeps its size, and NaN entries are among the first to be kept."""
    nan, inf = float("nan"), float("inf")
    score = torch.tensor([[0.0, nan, 1.0, inf, nan], [nan] * 5, [3.0, 2.0, 1.0, 0.0, nan]])
    assert largest(score, 2).nonzero().tolist() == [[0, 1], [0, 3], [1, 0], [1, 1], [2, 0], [2, 4]]
