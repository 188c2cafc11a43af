"""Base classes of the methods that a user configures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from decimal import Decimal
from enum import Enum
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from regrow.core import FFN, FFN_SITES, Blocks, Linear, Site, Surface
from regrow.errors import UsageError
from regrow.pruning.inputs import InputPruner, InputRule
from regrow.pruning.neurons import NeuronPruner
from regrow.pruning.pruner import DensePruner, Pruner
from regrow.selection.budget import parse_sparsity
from regrow.selection.index_set import IndexSet
from regrow.selection.schedule import ALWAYS_DENSE
from regrow.weights import WeightPruner


@final
class Needs(Enum):
    """Kind of calibration that a method needs.

    Each value is the default amount of calibration text: (sequences, tokens per sequence).
    """

    THRESHOLDS = (10, 2048)
    WEIGHTS = (128, 2048)


class Method(ABC):
    """A frozen dataclass of plain parameters that changes one surface of a model.

    Everything that happens while decoding follows from the `Pruner` that `pruner` returns.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]
    surface: ClassVar[Surface] = Surface.NEURONS
    # Whether a mask of neurons holds for many steps, so that a session can record the masks.
    keeps_masks: ClassVar[bool] = False
    # Parameters that a calibration depends on: other values need another calibration.
    calibrated_by: ClassVar[tuple[str, ...]] = ("sparsity",)
    # Parameters that only older records hold, each with the one value that is still supported.
    retired: ClassVar[Mapping[str, Any]] = {}
    # Parameters that older records lack, each with the value that their runs had. Descriptions leave out a
    # parameter with this value, so that such a run keeps its key.
    added: ClassVar[Mapping[str, Any]] = {}

    @abstractmethod
    def check(self) -> None:
        """Raises UsageError if a parameter is invalid."""

    @abstractmethod
    def pruner(self, blocks: Blocks, calibration: Mapping[str, Tensor]) -> Pruner:
        """Returns the pruner that applies the method to `blocks`.

        `calibration` holds the tensors of a calibration by name. It is empty if the method needs none. It may
        also be empty for a pruner that only computes scores, as in the making of a calibration.
        """

    def __post_init__(self) -> None:
        for field in fields(self):  # type: ignore[arg-type]
            value, kind = getattr(self, field.name), type(field.default)
            if kind is bool and type(value) is not bool:
                raise UsageError(f"parameter {field.name} takes true or false, not {value!r}")
            if kind is str and type(value) is not str:
                raise UsageError(f"parameter {field.name} takes a word, not {value!r}")
            if kind is float and field.name != "sparsity" and type(value) not in (int, float):
                raise UsageError(f"parameter {field.name} takes a number, not {value!r}")
        self.check()

    @property
    def target(self) -> Decimal:
        """Target sparsity; 0 for a method without one."""
        return parse_sparsity(getattr(self, "sparsity", 0))

    @property
    def sites(self) -> tuple[Site, ...]:
        """Groups of linear layers over which the actual sparsity of this method is computed."""
        return FFN_SITES

    @property
    def needs(self) -> Needs | None:
        """Kind of calibration that the method needs; None if it needs no calibration."""
        return None

    def weight_pruner(self, weight: Tensor) -> WeightPruner:
        """Returns the pruner of one weight `[out, in]`.

        Only methods that need `Needs.WEIGHTS` implement it; others raise NotImplementedError.
        """
        raise NotImplementedError(self.name)

    def describe(self) -> dict[str, Any]:
        """Returns the name and the parameters, ready for JSON.

        Equal methods have equal descriptions, no matter how `sparsity` was written (0.5, "0.50", ...). A
        parameter in `added` is left out if it has the value there.
        """
        given: dict[str, Any] = asdict(self)  # type: ignore[call-overload]
        parameters = {
            name: value
            for name, value in given.items()
            if name not in self.added or value != self.added[name]
        }
        if "sparsity" in parameters:
            parameters["sparsity"] = float(self.target)
        return {"name": self.name, **parameters}


class WeightMethod(Method):
    """A method that changes the weights of all linear layers of the blocks once, before the run.

    It does nothing while decoding.
    """

    surface: ClassVar[Surface] = Surface.WEIGHTS

    @property
    def sites(self) -> tuple[Site, ...]:
        return tuple(Site)

    @property
    def needs(self) -> Needs | None:
        return Needs.WEIGHTS if self.target else None

    def pruner(self, blocks: Blocks, calibration: Mapping[str, Tensor]) -> Pruner:  # noqa: ARG002
        return DensePruner(ALWAYS_DENSE)


class InputMethod(Method):
    """A method that selects inputs of linear layers in every decode step.

    It prunes all linear layers of the blocks, or with `ffn_only` those of the FFNs alone.
    """

    surface: ClassVar[Surface] = Surface.INPUTS
    retired: ClassVar[Mapping[str, Any]] = {"prompt": "dense"}
    ffn_only: bool

    @abstractmethod
    def rule(self) -> InputRule:
        """Returns the rule that decides which inputs are kept. Raises UsageError on bad parameters."""

    def check(self) -> None:
        self.rule()

    @property
    def sites(self) -> tuple[Site, ...]:
        return FFN_SITES if self.ffn_only else tuple(Site)

    @property
    def needs(self) -> Needs | None:
        return Needs.THRESHOLDS if self.target and self.rule().by_threshold else None

    def pruner(self, blocks: Blocks, calibration: Mapping[str, Tensor]) -> Pruner:
        if not self.target:
            return DensePruner(ALWAYS_DENSE)
        return InputPruner(self.rule(), blocks, thresholds(calibration, blocks.linears))


class NeuronMethod(Method):
    """A method that keeps a set of FFN neurons from one selection to the next."""

    keeps_masks: ClassVar[bool] = True

    @abstractmethod
    def index_set(self) -> IndexSet:
        """Returns the rule for scores, memory, aggregate and budget, with its schedule.

        Raises UsageError on bad parameters.
        """

    def check(self) -> None:
        self.index_set()

    @property
    def target(self) -> Decimal:
        return self.index_set().sparsity

    @property
    def needs(self) -> Needs | None:
        rule = self.index_set()
        return Needs.THRESHOLDS if rule.by_threshold and rule.schedule.prunes else None

    def scores(self, blocks: Blocks) -> Tensor | None:  # noqa: ARG002
        """Returns fixed scores `[L, F]`, or None for a method that observes activations."""
        return None

    def pruner(self, blocks: Blocks, calibration: Mapping[str, Tensor]) -> Pruner:
        rule = self.index_set()
        if not rule.schedule.prunes:
            return DensePruner(rule.schedule)
        return NeuronPruner(
            rule, blocks, threshold=thresholds(calibration, blocks.ffns), fixed=self.scores(blocks)
        )


def thresholds(calibration: Mapping[str, Tensor], places: Sequence[FFN] | Sequence[Linear]) -> Tensor | None:
    """Returns the threshold of each place, `[places]`, or None if there is no calibration."""
    return torch.stack([calibration[place.name] for place in places]) if calibration else None
