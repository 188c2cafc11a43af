"""Default sizes of a comparison."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

QUICK_PARAMETERS: Final = 30e6  # up to so many, a quick comparison has every entry and whole answers
# Entries of a quick comparison of a larger model: one of each kind.
QUICK_LABELS: Final = ("dense", "BAP", "BAP, T_init 16", "GRIFFIN", "TEAL", "CATS", "Wanda 2:4", "random")


@final
@dataclass(frozen=True)
class Scale:
    """How much a comparison runs."""

    prompts: int
    traced: int
    max_new_tokens: int
    sequences: int | None = None  # limit on calibration sequences; None: the method's default
    length: int | None = None  # limit on tokens of a sequence; None: the method's default
    labels: tuple[str, ...] = ()  # empty: every entry


FULL: Final = Scale(prompts=200, traced=48, max_new_tokens=600)


def quick(parameters: int) -> Scale:
    """Returns the sizes of a comparison that takes minutes, for a model with so many parameters.

    Larger models get fewer entries, shorter answers and shorter calibrations.
    """
    if parameters <= QUICK_PARAMETERS:
        return Scale(prompts=8, traced=4, max_new_tokens=FULL.max_new_tokens, sequences=16)
    share = QUICK_PARAMETERS / parameters
    return Scale(
        4, 4, max(96, round(share * FULL.max_new_tokens)), sequences=4, length=256, labels=QUICK_LABELS
    )
