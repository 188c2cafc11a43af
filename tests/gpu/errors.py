"""Errors of kernels and steps: their measure, their bounds, and what a check prints about them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Errors = Sequence[tuple[torch.dtype, float]]


def relative(ours: Tensor, theirs: Tensor) -> float:
    """Returns the largest difference, relative to the largest value of `theirs`."""
    return float((ours.double() - theirs.double()).abs().max() / theirs.double().abs().max())


def expect_within(errors: Errors, roundings: float) -> None:
    """Asserts that no error exceeds `roundings` roundings to its dtype, and prints the largest per dtype."""
    print(
        ", ".join(
            f"{kind} {max(error for dtype, error in errors if dtype == kind):.1e}"
            for kind in dict.fromkeys(dict(errors))
        )
    )
    for dtype, error in errors:
        assert error <= roundings * torch.finfo(dtype).eps, f"a relative error of {error:.1e} in {dtype}"


def expect_alike(found: Sequence[tuple[str, Tensor]]) -> None:
    """Asserts that logits agree, given the name of each run and the relative errors [N] of its steps.

    Sums in another order change a logit by some roundings. Rarely, they also swap two almost equal neurons at
    the border of a mask, which changes logits by little.
    """
    usual, worst = (
        max(float(errors.median()) for _, errors in found),
        max(float(errors.max()) for _, errors in found),
    )
    steps = sum(len(errors) for _, errors in found)
    print(f"{steps} steps, relative error {usual:.1e} in the median, at most {worst:.1e}")
    wrong = [
        name for name, errors in found if not (float(errors.median()) < 1e-4 and float(errors.max()) < 0.1)
    ]
    assert not wrong, f"other logits: {'; '.join(wrong)}"
