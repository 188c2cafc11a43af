"""How much a comparison runs where the user does not say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

QUICK_PARAMETERS: Final = 30e6  # up to so many, a quick look has every entry and whole answers
# Of larger models: one of each kind.
QUICK_LABELS: Final = ("dense", "BAP", "BAP, T_init 16", "GRIFFIN", "TEAL", "CATS", "Wanda 2:4", "random")


@final
@dataclass(frozen=True)
class Scale:
    prompts: int
    traced: int
    max_new_tokens: int
    sequences: int | None = None  # of a calibration, at most; None: what the method asks for
    length: int | None = None  # tokens of each, likewise
    labels: tuple[str, ...] = ()  # none: every entry


FULL: Final = Scale(prompts=200, traced=48, max_new_tokens=600)


def quick(parameters: int) -> Scale:
    """A look at a model of so many parameters that takes minutes: the more, the fewer entries and the shorter answers and calibrations."""
    if parameters <= QUICK_PARAMETERS:
        return Scale(prompts=8, traced=4, max_new_tokens=FULL.max_new_tokens, sequences=16)
    share = QUICK_PARAMETERS / parameters
    return Scale(
        4, 4, max(96, round(share * FULL.max_new_tokens)), sequences=4, length=256, labels=QUICK_LABELS
    )
