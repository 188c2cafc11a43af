"""The output of `regrow inspect`: a table of the drawn layers, and what to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from regrow.analysis.inspection import Energy, Inspection, Share, average, over
from regrow.cli.terminal_table import terminal_table
from regrow.format import parameters, percent
from regrow.table import Column, Table

_ALL = "all"


def show(
    console: Console, about: Mapping[str, Any], found: Inspection, directory: Path, files: Sequence[str]
) -> None:
    """Prints the table, what its columns tell of the settings, and what could not be drawn.

    `about` says what was run: the model, and how tokens were chosen.
    """
    console.print(
        f"{about['model']}, {parameters(found.method)}; {parameters(about['sampling'])}; "
        f"{len(found.tokens)} samples, {found.decode_steps} decode steps",
        style="dim",
        soft_wrap=True,
    )
    console.print(terminal_table(_table(found)))
    console.print(_reading(found), soft_wrap=True)
    for note in found.notes:
        console.print(f"{note}.", style="yellow", soft_wrap=True)
    console.print(f"in {directory}: {', '.join(files)}", style="dim", soft_wrap=True)


def _table(found: Inspection) -> Table:
    names = ("layer", f"kept of {found.neurons}", "refreshes", "samples", "own kept", "energy", "best")
    return Table.of([Column(name) for name in names], [_row(found, layer) for layer in [*found.drawn, None]])


def _row(found: Inspection, layer: int | None) -> list[str]:
    """Returns the cells of a layer, or of the mean over all layers."""
    places = list(range(len(found.layers))) if layer is None else [found.place(layer)]
    kept = sum(found.kept[place] for place in places) / len(places)
    return [
        _ALL if layer is None else str(layer),
        f"{kept:.0f}",
        percent(_successive(found, places)),
        percent(_common(found, places)),
        percent(_own(found, places)),
        percent(_energy(found.energy, places)),
        percent(_energy(found.best, places)),
    ]


def _reading(found: Inspection) -> str:
    """Returns what the numbers say about the settings."""
    everything = list(range(len(found.layers)))
    chance = percent(found.chance, 0)
    successive, own = _successive(found, everything), _own(found, everything)
    sentences = [f"Two random masks of this size share {chance} of their neurons."]
    if successive is not None:
        sentences.append(
            f"Successive masks share {percent(successive, 0)} (refreshes): the closer this is to 100 %, the "
            "less a shorter period changes."
        )
    if own is not None:
        sentences.append(
            f"The last mask keeps {percent(own, 0)} of what a sample would keep alone (own kept): "
            f"if this is close to {chance}, try a smaller batch or a lower sparsity."
        )
    kept, best = (_energy(energy, everything) for energy in (found.energy, found.best))
    sentences.append(
        f"Masks keep {percent(kept, 0)} of the activation energy (energy); as many neurons would hold "
        f"{percent(best, 0)} if each token of each sample chose its own (best). Look first at the red in "
        "activations-layer-*.png, and at energy.svg for the samples that lose most."
    )
    return " ".join(sentences)


def _successive(found: Inspection, places: Sequence[int]) -> Share:
    return over([[row[place] for place in places] for row in found.successive])


def _common(found: Inspection, places: Sequence[int]) -> Share:
    overlap = found.overlap
    return None if overlap is None else average(overlap.mean_common(place) for place in places)


def _own(found: Inspection, places: Sequence[int]) -> Share:
    return None if found.overlap is None else over([found.overlap.kept[place] for place in places])


def _energy(energy: Energy, places: Sequence[int]) -> Share:
    return over([energy.by_layer[place] for place in places])
