"""The cells of `regrow compare`: methods at several sparsities and batch sizes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

from regrow.errors import UsageError, require_one_of
from regrow.method.base import Method
from regrow.method.presets import PRESETS, make, parameters
from regrow.selection.budget import parse_sparsity

BATCH_SIZES: Final = (4, 16, 8, 1)  # in the order of the runs
SPARSITY: Final = "0.5"
OTHER_SPARSITIES: Final = ("0.3", "0.7")  # only at batch size SWEPT
SWEPT: Final = 4  # batch size that also has the ablations and the other sparsities
UNSTRUCTURED: Final = "Wanda, unstructured"

_Named = dict[str, tuple[str, dict[str, Any]]]  # label: method, parameters other than the sparsity

_LABELLED: Final[_Named] = {
    "dense": ("dense", {}),
    "BAP": ("bap", {}),
    "BAP, weighed": ("bap", {"weigh": "down"}),
    "BAP, T_init 16": ("bap", {"init_steps": 16}),
    "GRIFFIN": ("griffin", {}),
    "GRIFFIN, sum": ("griffin", {"aggregate": "sum"}),
    "TEAL": ("teal", {}),
    "TEAL, FFN only": ("teal", {"ffn_only": True}),
    "WINA": ("wina", {}),
    "CATS": ("cats", {}),
    "CATS, a mask a row": ("cats", {"share": "none"}),
    "Wanda 2:4": ("wanda", {}),
    "SparseGPT 2:4": ("sparsegpt", {}),
}
# Ablations of BAP, only at SWEPT and SPARSITY. They follow table 3 and figure 1 of the paper.
ABLATIONS: Final[_Named] = {
    "BAP, mean": ("bap", {"aggregate": "mean"}),
    "BAP, no memory": ("bap", {"memory": "none"}),
    "BAP, threshold": ("bap", {"selection": "threshold"}),
    "every token, max": ("every-token", {}),
    "every token, mean": ("every-token", {"aggregate": "mean"}),
    "BAP, T_init 0": ("bap", {"init_steps": 0}),
    "BAP, T_init 32": ("bap", {"init_steps": 32}),
    "BAP, T_init 128": ("bap", {"init_steps": 128}),
    "BAP, T_e 1": ("bap", {"explore_steps": 1}),
    "BAP, T_e 4": ("bap", {"explore_steps": 4}),
    "BAP, T_trans 10": ("bap", {"period": 10}),
    "BAP, T_trans 30": ("bap", {"period": 30}),
}
_PRESETS: Final[_Named] = {name: (own.method.name, dict(own.changes)) for name, own in PRESETS.items()}
# A method without a label of its own is labelled with its name.
ENTRIES: Final[_Named] = _LABELLED | {
    name: entry for name, entry in _PRESETS.items() if entry not in (_LABELLED | ABLATIONS).values()
}


@final
@dataclass(frozen=True)
class Cell:
    """One run of the comparison: a method with its sparsity, at one batch size."""

    label: str
    method: Method
    batch_size: int

    @property
    def title(self) -> str:
        """The cell in words, for progress lines."""
        sparsity = f" at {float(100 * self.method.target):g} %" if self.method.target else ""
        return f"{self.label}{sparsity}, batch {self.batch_size}"

    @property
    def name(self) -> str:
        """Name of the cell's files, without extension."""
        slug = re.sub(r"[^a-z0-9]+", "-", self.label.lower()).strip("-")
        sparsity = f"-s{float(self.method.target):g}" if self.method.target else ""
        return f"{slug}{sparsity}-b{self.batch_size}"


def grid(
    batch_sizes: Sequence[int] = BATCH_SIZES,
    sparsities: Sequence[str] = (),
    *,
    others: bool = True,
    methods: Sequence[str] = (),
    only: Sequence[str] = (),
) -> list[Cell]:
    """Returns the cells of a comparison.

    By default these are all entries at SPARSITY and every batch size; at batch SWEPT also the ablations and,
    with `others`, the other sparsities. `methods` selects methods with their default parameters, beside
    dense. With `sparsities`, all entries or methods run at each of these, at every batch size, without
    ablations. `only` selects labels.

    Raises UsageError if a method is unknown, or if a label does not occur at these batch sizes.
    """
    entries = _defaults(methods) if methods else ENTRIES
    ablations = {} if methods or sparsities else ABLATIONS
    cells: list[Cell] = []
    for size in dict.fromkeys(batch_sizes):
        swept = size == SWEPT
        cells += _at(size, entries, sparsities or [SPARSITY])
        cells += _at(size, ablations, [SPARSITY] if swept else [])
        cells += _at(size, _pruning(entries), OTHER_SPARSITIES if swept and others and not sparsities else [])
    labels = dict.fromkeys(cell.label for cell in cells)
    unknown = [label for label in only if label not in labels]
    if unknown:
        raise UsageError(
            f"unknown entry {unknown[0]!r} at batch {', '.join(map(str, batch_sizes))}; "
            f"choose from: {'; '.join(labels)}"
        )
    return [cell for cell in cells if not only or cell.label in only]


def _defaults(methods: Sequence[str]) -> _Named:
    """Returns the entries of dense and of these methods with their default parameters.

    Raises UsageError if a method is unknown.
    """
    found: _Named = {}
    for name in dict.fromkeys(("dense", *methods)):
        require_one_of(PRESETS, method=name)
        label = next(label for label, entry in (ENTRIES | ABLATIONS).items() if entry == _PRESETS[name])
        found[label] = _PRESETS[name]
    return found


def _pruning(entries: _Named) -> _Named:
    return {label: entry for label, entry in entries.items() if label != "dense"}


def _at(batch_size: int, entries: _Named, sparsities: Sequence[str]) -> Iterator[Cell]:
    """Yields the entries at these sparsities; where 2:4 patterns do not apply, Wanda is unstructured."""
    for number, sparsity in enumerate(sparsities):
        half = parse_sparsity(sparsity) == parse_sparsity(SPARSITY)
        for label, (method, params) in entries.items():
            if label == "dense" and number:
                continue  # dense has no sparsity
            if half or not label.endswith("2:4"):
                yield Cell(label, _method(method, params, sparsity), batch_size)
            elif label == "Wanda 2:4":
                yield Cell(UNSTRUCTURED, _method(method, {"pattern": "unstructured"}, sparsity), batch_size)


def _method(name: str, params: dict[str, Any], sparsity: str) -> Method:
    return make(name, **params, **({"sparsity": sparsity} if "sparsity" in parameters(name) else {}))
