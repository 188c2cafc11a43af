"""Inputs that exceed a threshold: the kernel and the reference against the definition in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kernels.custom_ops import check_custom_op
from regrow.kernels.threshold import reference
from regrow.kernels.threshold.triton import exceeding

NAN = float("nan")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def scores(x: Tensor, slot: Tensor, norms: Tensor | None, abs_mean: bool) -> Tensor:
    live = x[slot >= 0].double()
    mean = (live if abs_mean else live.abs()).sum(0).abs() / max(1, len(live))
    return mean if norms is None else mean * norms.double()


@pytest.mark.parametrize("implementation", [exceeding, reference.exceeding], ids=["kernel", "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("weighed", [False, True])
@pytest.mark.parametrize("abs_mean", [False, True])
@pytest.mark.parametrize(
    ("slot", "inputs"),
    [([0], 700), ([0, -1, 2], 33), ([2, 1, 0] * 7, 256), ([-1, -1], 40)],
    ids=["one", "ended", "many", "none"],
)
def test_inputs_above_the_threshold_are_kept_and_counted(
    implementation: object, slot: list[int], inputs: int, dtype: torch.dtype, weighed: bool, abs_mean: bool
) -> None:
    """Rows that do not count are NaN, and so are the gaps between rows.

    The threshold is far enough from all scores that rounding decides nothing.
    """
    wide = torch.full((len(slot), inputs + 7), NAN, dtype=dtype)
    x, places = wide[:, 3 : inputs + 3], torch.tensor(slot)
    x.copy_(torch.where(places[:, None] >= 0, normal(len(slot), inputs), NAN))
    norms = normal(inputs, seed=1).abs() if weighed else None
    want = scores(x, places, norms, abs_mean)
    ordered = want.sort().values
    threshold = float(ordered[inputs // 3 : inputs // 3 + 2].mean())
    assert not want.any() or (want - threshold).abs().min() > 1e-6 * threshold
    keep, measured = torch.ones(inputs, dtype=torch.bool), torch.tensor([5, 7])
    implementation(x, places, norms, threshold, abs_mean, 11, measured[1], keep)  # type: ignore[operator]
    assert torch.equal(keep, want > threshold)
    assert measured.tolist() == [5, 7 + 11 * int(keep.sum())]


def test_refuses_inputs_that_are_not_adjacent() -> None:
    with pytest.raises(ValueError, match="adjacent"):
        exceeding(
            normal(6, 4).t(),
            torch.zeros(4, dtype=torch.int64),
            None,
            0.5,
            False,
            1,
            torch.tensor(0),
            torch.empty(6, dtype=torch.bool),
        )


@pytest.mark.parametrize("weighed", [False, True])
def test_is_a_custom_operator(weighed: bool) -> None:
    norms = normal(40, seed=1) if weighed else None
    slot, keep = torch.tensor([0, -1, 1]), torch.zeros(40, dtype=torch.bool)
    check_custom_op(exceeding, (normal(3, 40), slot, norms, 0.5, False, 3, torch.tensor(0), keep))
