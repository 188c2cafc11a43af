"""The numbers and heat maps of one inspected batch, as plain values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import mean
from typing import Any, final

Share = float | None  # in [0, 1]; None if nothing was measured


@final
@dataclass(frozen=True)
class Overlap:
    """Overlap between the samples of a batch, by their own scores in the latest dense stage.

    A sample's own neurons are the k with the largest scores of that sample alone, k as in the last mask.
    """

    samples: list[int]  # the S samples that have scores, numbered from 1
    common: list[list[list[float]]]  # [L][S][S], the share of own neurons that two samples have in common
    kept: list[list[float]]  # [L][S], the share of a sample's own neurons that the last mask keeps

    def mean_common(self, layer: int) -> Share:
        """Returns the mean over the pairs of different samples, at one place in the list of layers."""
        rows = self.common[layer]
        return average(rows[i][j] for i in range(len(rows)) for j in range(i))


@final
@dataclass(frozen=True)
class Energy:
    """Share of the activation energy ||z||^2 that some neurons hold, at sparse steps."""

    by_layer: list[list[Share]]  # [L][B], mean over the sparse steps
    by_step: list[list[Share]]  # [B][N], mean over the layers; None at dense steps and after a sample's end


@final
@dataclass(frozen=True)
class Panel:
    """The activations of one sample in one layer: R bands of neurons over C columns of tokens."""

    sample: int  # from 1
    magnitude: list[list[float]]  # [R][C], the largest |z| / ||z|| in the band; NaN where there is no token
    left_out: list[list[bool]]  # [R][C], True if the neuron of that magnitude is not computed in that step


@final
@dataclass(frozen=True)
class HeatMap:
    """The activations of a layer over the end of the prompts and all decode steps.

    Neurons are sorted: first those of the last mask, then the others, each by descending score (maximum over
    the samples; without scores, in the order of the model). All panels have the same order.
    """

    layer: int
    prompt_columns: int  # columns of prompt tokens, which end where decode step 1 begins
    band: int  # neurons in a band
    kept: int  # k, the neurons of the last mask
    panels: list[Panel]


@final
@dataclass(frozen=True)
class Inspection:
    """One batch of B samples and N decode steps, in L layers of F neurons."""

    method: dict[str, Any]
    neurons: int  # F
    layers: list[int]  # the layers that the method prunes
    kept: list[int]  # [L], the number of neurons in the last mask
    tokens: list[int]  # [B], new tokens of each sample
    decode_steps: int  # N
    sparse_steps: list[int]  # the decode steps that were sparse, counted from 1
    selections: list[int]  # the decode step after which each mask was selected; 0 is the prompt
    successive: list[list[float]]  # [masks - 1][L], |I_n and I_(n-1)| / |I_n|
    overlap: Overlap | None  # None if fewer than two samples have scores
    energy: Energy  # of the neurons in the mask that the step used
    best: Energy  # of as many neurons, chosen anew for each token of each sample
    notes: list[str]  # what could not be drawn, and why
    maps: list[HeatMap]  # of the layers that were chosen

    @property
    def drawn(self) -> list[int]:
        """Numbers of the layers with a heat map."""
        return [heat_map.layer for heat_map in self.maps]

    @property
    def chance(self) -> float:
        """Expected overlap of two masks chosen at random, k / F."""
        return mean(self.kept) / self.neurons

    def place(self, layer: int) -> int:
        """Returns the place of a layer in the lists that have one entry a layer."""
        return self.layers.index(layer)

    def to_dict(self) -> dict[str, Any]:
        """Returns the numbers as JSON values. Heat maps are left out."""
        values = {
            name: asdict(value) if isinstance(value, Overlap | Energy) else value
            for name, value in vars(self).items()
            if name != "maps"
        }
        return {**values, "drawn": self.drawn, "chance": self.chance}


def average(values: Iterable[Share]) -> Share:
    """Returns the mean of the values that are not None, or None if there are none."""
    found = [value for value in values if value is not None]
    return mean(found) if found else None


def over(rows: Sequence[Sequence[Share]]) -> Share:
    """Returns the mean of all values in a table, or None if there are none."""
    return average(value for row in rows for value in row)
