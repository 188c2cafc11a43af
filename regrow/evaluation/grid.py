"""The cells of `regrow compare`: methods at several sparsities and batch sizes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

from regrow.errors import UsageError, require_one_of
from regrow.method.base import Method
from regrow.method.presets import METHODS, make, parameters
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
# A method without a label of its own is labelled with its name.
ENTRIES: Final[_Named] = _LABELLED | {
    name: (name, {})
    for name in METHODS
    if name not in {method for method, _ in (_LABELLED | ABLATIONS).values()}
}


@final
@dataclass(frozen=True)
class Cell:
    """One run of the comparison: a method with its sparsity, at one batch size."""

    label: str
    method: Method
    batch_size: int

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
    with `others`, the other sparsities. With `sparsities` they are all entries at each of these, at every
    batch size. `methods` selects methods with their default parameters, beside dense; `only` selects labels.

    Raises UsageError if a method is unknown, or if a label does not occur at these batch sizes.
    """
    cells = [
        cell
        for size in dict.fromkeys(batch_sizes)
        for cell in (_at(size, sparsities) if sparsities else _cells(size, size == SWEPT, others))
    ]
    if methods:
        chosen = _labels(methods)
        return [cell for cell in cells if cell.label in chosen]
    labels = dict.fromkeys(cell.label for cell in cells)
    unknown = [label for label in only if label not in labels]
    if unknown:
        raise UsageError(
            f"unknown entry {unknown[0]!r} at batch {', '.join(map(str, batch_sizes))}; "
            f"choose from: {'; '.join(labels)}"
        )
    return [cell for cell in cells if not only or cell.label in only]


def _labels(methods: Sequence[str]) -> set[str]:
    """Returns the labels of these methods with their default parameters, and of dense.

    Raises UsageError if a method is unknown.
    """
    for name in methods:
        require_one_of(METHODS, method=name)
    labels = {
        next(label for label, entry in ENTRIES.items() if entry[0] == name) for name in ("dense", *methods)
    }
    return labels | {UNSTRUCTURED} if "wanda" in methods else labels


def _cells(batch_size: int, swept: bool, others: bool) -> Iterator[Cell]:
    yield from _at(batch_size, [SPARSITY])
    for label, (method, params) in ABLATIONS.items() if swept else ():
        yield Cell(label, _method(method, params, SPARSITY), batch_size)
    for sparsity in OTHER_SPARSITIES if swept and others else ():
        yield from (cell for cell in _at(batch_size, [sparsity]) if cell.label != "dense")


def _at(batch_size: int, sparsities: Sequence[str]) -> Iterator[Cell]:
    """Yields the entries at these sparsities; where 2:4 patterns do not apply, Wanda is unstructured."""
    for label, (method, params) in ENTRIES.items():
        for sparsity in sparsities[:1] if label == "dense" else sparsities:
            half = parse_sparsity(sparsity) == parse_sparsity(SPARSITY)
            if half or not label.endswith("2:4"):
                yield Cell(label, _method(method, params, sparsity), batch_size)
            elif label == "Wanda 2:4":
                yield Cell(UNSTRUCTURED, _method(method, {"pattern": "unstructured"}, sparsity), batch_size)


def _method(name: str, params: dict[str, Any], sparsity: str) -> Method:
    return make(name, **params, **({"sparsity": sparsity} if "sparsity" in parameters(name) else {}))
