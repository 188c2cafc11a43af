"""Inputs that exceed a threshold: the kernel that gathers them and the reference, against float64."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from kernels.custom_ops import check_custom_op
from kernels.operands import poisoned
from regrow.kernels.pruned_linear import triton as pruned_linear
from regrow.kernels.pruned_linear.threshold import AboveThreshold, kept_inputs
from regrow.kernels.pruned_linear.triton import gather_exceeding, gather_inputs, gather_workspace
from regrow.kernels.split_sums import blocks

NAN = float("nan")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def scores(x: Tensor, slot: Tensor, norms: Tensor | None, abs_mean: bool) -> Tensor:
    live = x[slot >= 0].double()
    mean = (live if abs_mean else live.abs()).sum(0).abs() / max(1, len(live))
    return mean if norms is None else mean * norms.double()


def by_reference(x: Tensor, *rule: object) -> Tensor:
    return kept_inputs(x, AboveThreshold(*rule))  # type: ignore[arg-type]


def by_kernel(x: Tensor, *rule: object) -> Tensor:
    """Returns the mask that corresponds to the gathered index, which is ascending."""
    (tokens, inputs), room = x.shape, blocks(x.shape[1], 16) * 16
    index, count = torch.full((room,), -1, dtype=torch.int32), torch.full((1,), -1, dtype=torch.int32)
    counts, kept = (
        torch.zeros(gather_workspace(inputs), dtype=torch.int32),
        poisoned(tokens, room, dtype=x.dtype),
    )
    gather_exceeding(x, *rule, kept, index, count, counts)  # type: ignore[arg-type]
    mask = torch.zeros(inputs, dtype=torch.bool)
    mask[index[: int(count)].long()] = True
    assert index[: int(count)].tolist() == mask.nonzero().flatten().tolist()
    return mask


@pytest.mark.parametrize("implementation", [by_kernel, by_reference], ids=["kernel", "reference"])
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
    measured = torch.tensor([5, 7])
    keep = implementation(x, places, norms, threshold, abs_mean, 11, measured[1])  # type: ignore[operator]
    assert torch.equal(keep, want > threshold)
    assert measured.tolist() == [5, 7 + 11 * int(keep.sum())]


def gathered(x: Tensor, keep: Tensor | Sequence[object], counts: Tensor) -> list[Tensor]:
    """Returns the gathered inputs with their padding, the index and the count."""
    room = blocks(x.shape[1], 16) * 16
    kept, index = torch.zeros(len(x), room), torch.full((room,), -1, dtype=torch.int32)
    count = torch.full((1,), -1, dtype=torch.int32)
    if isinstance(keep, Tensor):
        gather_inputs(x, keep, kept, index, count, counts)
    else:
        gather_exceeding(x, *keep, kept, index, count, counts)  # type: ignore[arg-type]
    return [kept, index, count]


def test_the_inputs_above_the_threshold_are_gathered_like_those_of_a_mask(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One workspace serves launch after launch, with and without a mask, also when their number wraps."""
    monkeypatch.setattr(pruned_linear, "INPUTS", 16)
    monkeypatch.setattr(pruned_linear, "LAUNCHES", 3)
    counts, slot = torch.zeros(gather_workspace(70), dtype=torch.int32), torch.zeros(20, dtype=torch.int64)
    for seed in range(8):
        x = normal(20, 70, seed=seed)
        rule = slot, None, 0.8, False, 1, torch.tensor(0)
        mask = by_reference(x, *rule)
        assert 0 < int(mask.sum()) < 70
        for one, other in zip(gathered(x, rule, counts), gathered(x, mask, counts), strict=True):
            assert torch.equal(one, other)


def test_refuses_operands_that_are_not_adjacent() -> None:
    slot, counts = torch.zeros(4, dtype=torch.int64), torch.zeros(gather_workspace(6), dtype=torch.int32)
    with pytest.raises(ValueError, match="adjacent"):
        gathered(normal(6, 4).t(), (slot, None, 0.5, False, 1, torch.tensor(0)), counts)
    with pytest.raises(ValueError, match="slot and norms"):
        gathered(normal(4, 6), (slot, normal(12)[::2], 0.5, False, 1, torch.tensor(0)), counts)


@pytest.mark.parametrize("weighed", [False, True])
def test_is_a_custom_operator(weighed: bool) -> None:
    norms = normal(40, seed=1) if weighed else None
    index, count = torch.zeros(48, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
    counts, slot = torch.zeros(gather_workspace(40), dtype=torch.int32), torch.tensor([0, -1, 1])
    rule = slot, norms, 0.5, False, 3, torch.tensor(0)
    check_custom_op(gather_exceeding, (normal(3, 40), *rule, torch.zeros(3, 48), index, count, counts))
