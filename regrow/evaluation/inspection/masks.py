"""The masks of a run, and the decode steps in which each was used."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import final

import torch
from torch import Tensor

from regrow.core import Mode
from regrow.errors import UsageError
from regrow.method.base import Method
from regrow.method.presets import PRESETS
from regrow.selection.schedule import Schedule


def refuse(method: Method) -> None:
    """Raises UsageError for a method without masks that hold for many steps."""
    if not method.keeps_masks:
        others = ", ".join(name for name, own in PRESETS.items() if own.method.keeps_masks)
        raise UsageError(
            f"method {method.name!r} keeps no mask of neurons from step to step, so there is none to draw; "
            f"choose one of {others}"
        )
    if not method.target:
        raise UsageError("sparsity 0 keeps every neuron, so there is no mask to draw; choose a larger one")


@final
class Masks:
    """All masks that a session recorded in one batch of N decode steps."""

    def __init__(
        self, recorded: Sequence[tuple[int, Tensor]], neurons: int, schedule: Schedule, decode_steps: int
    ) -> None:
        """`recorded` is `Session.masks` with one entry or more: a decode step, and indices `[L, k]`.

        Indices may be padded with -1.
        """
        self.selections = [step for step, _ in recorded]
        # [n, L, F] bool
        self.kept = torch.stack([_as_mask(index, neurons) for _, index in recorded])
        self.sparse_steps = [
            step for step in range(1, decode_steps + 1) if schedule.mode(step) is Mode.SPARSE
        ]
        # [N] the number of the mask that a decode step used, or -1 if the step was dense.
        self.used = torch.full((decode_steps,), -1, dtype=torch.int64, device=self.kept.device)
        for step in self.sparse_steps:
            self.used[step - 1] = sum(selected < step for selected in self.selections) - 1

    def successive(self) -> list[list[float]]:
        """Returns |I_n and I_(n-1)| / |I_n| for each mask but the first, and each layer."""
        return [shared(new, old).tolist() for old, new in pairwise(self.kept)]

    def sizes(self) -> list[int]:
        """Returns the number of neurons in the last mask, for each layer."""
        sizes: list[int] = self.kept[-1].sum(dim=-1).tolist()
        return sizes


def shared(some: Tensor, others: Tensor) -> Tensor:
    """Returns |A and B| / |A| of masks `[..., F]` bool, in float64; 1 where A is empty."""
    size = some.sum(dim=-1)
    return torch.where(size > 0, (some & others).sum(dim=-1).double() / size.clamp(min=1), 1)


def _as_mask(index: Tensor, neurons: int) -> Tensor:
    """Returns indices `[L, k]`, padded with -1, as a mask `[L, F]` bool."""
    mask = torch.zeros(len(index), neurons + 1, dtype=torch.bool, device=index.device)
    return mask.scatter_(1, torch.where(index < 0, neurons, index), value=True)[:, :neurons]
