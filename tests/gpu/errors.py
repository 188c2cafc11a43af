"""What a check compares with, and how it says what it found."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Errors = Sequence[tuple[torch.dtype, float]]


def relative(ours: Tensor, theirs: Tensor) -> float:
    """Return the largest difference, relative to the largest value."""
    return float((ours.double() - theirs.double()).abs().max() / theirs.double().abs().max())


def expect_within(errors: Errors, roundings: float) -> None:
    """Assert that each error is below so many roundings to its type, and say the largest of each type."""
    print(
        ", ".join(
            f"{kind} {max(error for dtype, error in errors if dtype == kind):.1e}"
            for kind in dict.fromkeys(dict(errors))
        )
    )
    for dtype, error in errors:
        assert error <= roundings * torch.finfo(dtype).eps, f"a relative error of {error:.1e} in {dtype}"


def expect_alike(found: Sequence[tuple[str, Tensor]]) -> None:
    """Assert that logits are alike, by their relative errors [N] at each step of each run.

    Sums in another order change a logit by some roundings, and may swap two neurons at the border of a mask: seldom, and by little.
    """
    usual, worst = (
        max(float(errors.median()) for _, errors in found),
        max(float(errors.max()) for _, errors in found),
    )
    print(
        f"{sum(len(errors) for _, errors in found)} steps, relative error {usual:.1e} in the median, at most {worst:.1e}"
    )
    wrong = [
        name for name, errors in found if not (float(errors.median()) < 1e-4 and float(errors.max()) < 0.1)
    ]
    assert not wrong, f"other logits: {'; '.join(wrong)}"
