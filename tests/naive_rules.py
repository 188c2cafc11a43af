"""The arithmetic and the schedule of the naive reference, from the text of the paper. They need no model.

Symbols: F neurons, of which k are kept; T_init, T_p and T_e steps of initial exploration, pruning and
exploration.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

import torch
from torch import Tensor


@dataclass(frozen=True)
class Settings:
    """The settings of a run. T_p, the number of sparse steps in a cycle, is period - explore_steps."""

    sparsity: str
    init_steps: int
    explore_steps: int
    period: int
    max_new_tokens: int
    pad: int
    eos: frozenset[int] = frozenset()
    aggregate: str = "max"  # or mean
    memory: str = "max"  # or none, ema
    decay: float = 0.9
    forget_finished: bool = False
    weigh: str = "none"  # or down


def kept_count(sparsity: str, neurons: int) -> int:
    """Return k = floor((1 - rho) F). `sparsity` is rho, as the decimal that was written."""
    return int((Decimal(1) - Decimal(sparsity)) * neurons)


def is_sparse(settings: Settings, step: int) -> bool:
    """Return whether a decode step, numbered from 1, is sparse.

    After T_init dense steps, each cycle has T_p sparse steps and then T_e dense ones.
    """
    if step <= settings.init_steps:
        return False
    return (step - settings.init_steps - 1) % settings.period < settings.period - settings.explore_steps


def ends_dense_stage(settings: Settings, step: int) -> bool:
    """Return whether a mask is selected after this step (0 = prompt).

    The prompt gives the first mask only if T_init = 0.
    """
    if step <= settings.init_steps:
        return step == settings.init_steps
    return settings.explore_steps > 0 and (step - settings.init_steps) % settings.period == 0


def score(activations: Sequence[Tensor], neurons: int, dtype: torch.dtype) -> Tensor:
    """Return s [F] (equation 2): the root mean square of z / ||z|| over the z [F] of the counted tokens."""
    total = torch.zeros(neurons, dtype=dtype)
    for z in activations:
        norm = z.to(dtype).square().sum().sqrt()
        if norm > 0:
            total += (z.to(dtype) / norm).square()
    return (total / len(activations)).sqrt()


def remember(settings: Settings, scores: Sequence[Tensor | None]) -> Tensor | None:
    """Return m_b [F] of one row, or None if the row does not count.

    `scores` holds its score in every phase so far, None if T_b = 0.
    """
    if settings.memory == "none":
        return scores[-1]
    memory: Tensor | None = None
    for s in scores:
        if s is None:
            continue
        if memory is None:
            memory = s
        elif settings.memory == "max":
            memory = torch.maximum(memory, s)
        else:
            memory = settings.decay * memory + (1 - settings.decay) * s
    return memory


def aggregate(settings: Settings, memories: Sequence[Tensor]) -> Tensor:
    """Return mbar [F] (equation 3) from the m_b [F] of the rows that count."""
    stacked = torch.stack(list(memories))
    return stacked.amax(0) if settings.aggregate == "max" else stacked.mean(0)


def weigh(settings: Settings, mbar: Tensor, down: Tensor) -> Tensor:
    """Return mbar [F], each entry times the norm of its column of down [D, F] if the settings say so.

    The norms are the same for all samples and phases, so they may be multiplied last.
    """
    if settings.weigh == "none":
        return mbar
    columns = [down[:, j].to(mbar.dtype).square().sum().sqrt() for j in range(len(mbar))]
    return mbar * torch.stack(columns)


def retain(mbar: Tensor, k: int) -> tuple[list[int], float]:
    """Return the indices of the k largest entries, in ascending order; of equal entries the lower index wins.

    Also return the relative gap between the k-th largest entry and the next.
    """
    values = mbar.tolist()
    order = sorted(range(len(values)), key=lambda j: (-values[j], j))
    if k == len(values):
        return sorted(order), math.inf
    last, following = values[order[k - 1]], values[order[k]]
    return sorted(order[:k]), (last - following) / last if last > 0 else 0.0
