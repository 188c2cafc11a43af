"""Names of methods in tables and figures: those of the grid, or the method and its unusual parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from regrow.evaluation.grid import ABLATIONS, ENTRIES, UNSTRUCTURED
from regrow.format import parameters as shown
from regrow.method.presets import METHODS
from regrow.method.presets import parameters as defaults
from regrow.run_config import RunConfig, differing

_CALIBRATION = "calibration"  # the digest of a calibration, which is no parameter of the method


def unusual(method: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the sparsity and the parameters of a method that are not defaults."""
    known = {**METHODS[method].retired, **defaults(method)} if method in METHODS else {}
    return {
        name: value
        for name, value in params.items()
        if name == "sparsity" or name not in known or value != known[name]
    }


def label(config: RunConfig) -> str:
    """Returns the name of a run's method, without its sparsity and batch size."""
    own = unusual(config.method, config.params)
    found = {name: value for name, value in own.items() if name not in ("sparsity", _CALIBRATION)}
    known = {**ENTRIES, **ABLATIONS, UNSTRUCTURED: ("wanda", {"pattern": "unstructured"})}
    name = next((name for name, entry in known.items() if entry == (config.method, found)), None)
    if name is None:
        plain = next((name for name, entry in known.items() if entry == (config.method, {})), config.method)
        name = f"{plain} ({shown(found)})" if found else plain
    if config.skip_layers:
        name += f", dense layers {', '.join(map(str, config.skip_layers))}"
    return name


def labels(configs: Sequence[RunConfig]) -> list[str]:
    """Returns the labels of runs with one batch size, sparsity and setting.

    Runs that would have the same label get the parameters in which they differ.
    """
    found = [label(config) for config in configs]
    return [
        name if found.count(name) == 1 else f"{name} ({shown(_own(number, name, found, configs))})"
        for number, name in enumerate(found)
    ]


def _own(number: int, name: str, found: Sequence[str], configs: Sequence[RunConfig]) -> dict[str, Any]:
    """Returns the parameters in which one run differs from the others of the same label."""
    alike = [place for place, other in enumerate(found) if other == name]
    return differing([dict(configs[place].params) for place in alike])[alike.index(number)]
