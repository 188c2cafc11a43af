"""What a user configures."""

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
    """What a method takes from a calibration text, and how much text by default: sequences, tokens of each."""

    THRESHOLDS = (10, 2048)
    WEIGHTS = (128, 2048)


class Method(ABC):
    """A frozen dataclass of plain parameters. It changes one surface of a model; everything else follows from `pruner`."""

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]
    surface: ClassVar[Surface] = Surface.NEURONS
    calibrated_by: ClassVar[tuple[str, ...]] = (
        "sparsity",
    )  # parameters that a calibration is made for: others need another
    retired: ClassVar[
        Mapping[str, Any]
    ] = {}  # parameters that older records hold, with the value that is now the only one

    @abstractmethod
    def check(self) -> None:
        """Raises UsageError on bad parameters."""

    @abstractmethod
    def pruner(self, blocks: Blocks, calibration: Mapping[str, Tensor]) -> Pruner:
        """The method at work. `calibration` may be empty for a pruner that only scores."""

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
        """The sparsity asked for; 0 for a method without one."""
        return parse_sparsity(getattr(self, "sparsity", 0))

    @property
    def sites(self) -> tuple[Site, ...]:
        """The linears that its actual sparsity is about."""
        return FFN_SITES

    @property
    def needs(self) -> Needs | None:
        """What it needs of a calibration."""
        return None

    def weight_pruner(self, weight: Tensor) -> WeightPruner:
        """Of one linear [out, in]; only of a method that needs WEIGHTS."""
        raise NotImplementedError(self.name)

    def describe(self) -> dict[str, Any]:
        """Name and parameters, ready for JSON; the same method gives the same text however its sparsity was written."""
        parameters: dict[str, Any] = asdict(self)  # type: ignore[call-overload]
        if "sparsity" in parameters:
            parameters["sparsity"] = float(self.target)
        return {"name": self.name, **parameters}


class WeightMethod(Method):
    """A method that changes the weights of all block linears before the run, and does nothing while decoding."""

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
    """A method that chooses inputs of the block linears, or of the FFN's alone, in every decode step."""

    surface: ClassVar[Surface] = Surface.INPUTS
    retired: ClassVar[Mapping[str, Any]] = {"prompt": "dense"}
    ffn_only: bool

    @abstractmethod
    def rule(self) -> InputRule:
        """What is kept. Raises UsageError on bad parameters."""

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
    """A method that retains FFN neurons between one selection and the next."""

    @abstractmethod
    def index_set(self) -> IndexSet:
        """The parts it is made of: scores, memory, aggregate, budget, schedule. Raises UsageError on bad parameters."""

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
        """[L, F] that stand from the start; None for a method that observes."""
        return None

    def pruner(self, blocks: Blocks, calibration: Mapping[str, Tensor]) -> Pruner:
        rule = self.index_set()
        if not rule.schedule.prunes:
            return DensePruner(rule.schedule)
        return NeuronPruner(
            rule, blocks, threshold=thresholds(calibration, blocks.ffns), fixed=self.scores(blocks)
        )


def thresholds(calibration: Mapping[str, Tensor], places: Sequence[FFN] | Sequence[Linear]) -> Tensor | None:
    """[places], or None where there is no calibration."""
    return torch.stack([calibration[place.name] for place in places]) if calibration else None
