"""Groups results by setting: the runs of a group can be compared with each other."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, final

from regrow.analysis.comparison_table import ComparisonRow, row
from regrow.analysis.summary import target
from regrow.analysis.tables import setting
from regrow.evaluation.grid import ABLATIONS, ENTRIES, SPARSITY
from regrow.evaluation.labels import labels
from regrow.records import Graded
from regrow.reporting.sources import RecordedDivergence, RecordedRun, Sources
from regrow.run_config import RunConfig, canonical, differing

_VARYING: Final = ("method", "params", "skip_layers", "batch_size")  # within a group
_OF_PROMPTS: Final = ("limit", "task_sha256", "prompts_sha256")  # a divergence is of other prompts
_ORDER: Final = {label: number for number, label in enumerate((*ENTRIES, *ABLATIONS))}


@final
@dataclass(frozen=True)
class Group:
    """The rows of one setting: one model, task, limit and device."""

    name: str  # of the task; with the setting if another group has the same model and task
    slug: str  # for names of files, unique
    config: RunConfig  # of one of the rows; method and batch size vary
    rows: tuple[ComparisonRow, ...]

    @property
    def model(self) -> str:
        return self.config.model

    @property
    def setting(self) -> str:
        """The setting in words. Without answers it is that of the dense answers a method is compared on."""
        return setting(self.config)

    @property
    def answered(self) -> list[ComparisonRow]:
        """The rows with answers."""
        return [row for row in self.rows if row.summary is not None]

    @property
    def batch_sizes(self) -> list[int]:
        return sorted({row.batch_size for row in self.rows})


@final
@dataclass
class _Cell:
    """One method at one sparsity and batch size: the run, the divergence or both."""

    config: RunConfig
    run: RecordedRun | None = None
    divergence: RecordedDivergence | None = None
    label: str = ""

    @property
    def dense(self) -> bool:
        return self.config.method == "dense" and not self.config.skip_layers


@final
@dataclass
class _Setting:
    cells: dict[str, _Cell] = field(default_factory=dict)

    def cell(self, config: RunConfig) -> _Cell:
        """Returns the cell of this configuration; creates it if there is none."""
        identity = canonical({name: value for name, value in config.to_dict().items() if name in _VARYING})
        return self.cells.setdefault(identity, _Cell(config))

    def has(self, config: RunConfig) -> bool:
        return any(cell.run and _same(cell.config, config, _VARYING) for cell in self.cells.values())


def groups(sources: Sources) -> list[Group]:
    """Grades the runs and groups them with the divergences.

    Files that cannot be graded are added to `sources.left_out`. Raises UsageError or RegrowError if the files
    of one run cannot be graded together.
    """
    settings: dict[str, _Setting] = {}
    for run in sources.runs:
        settings.setdefault(_key(run.config, _VARYING), _Setting()).cell(run.config).run = run
    for divergence in sources.divergences:
        _setting(settings, divergence.config).cell(divergence.config).divergence = divergence
    found = [_group(one, sources.left_out) for one in settings.values()]
    return _named([group for group in found if group.rows])


def main(rows: Iterable[ComparisonRow]) -> list[ComparisonRow]:
    """Returns the rows that are no ablations, which have a section of their own."""
    return [row for row in rows if row.label not in ABLATIONS]


def _setting(settings: dict[str, _Setting], config: RunConfig) -> _Setting:
    """Returns the setting that a divergence belongs to: that of the same run, or else of the same task."""
    without = (*_VARYING, *_OF_PROMPTS)
    fitting = [
        one for one in settings.values() if _same(next(iter(one.cells.values())).config, config, (), without)
    ]
    fitting.sort(key=lambda one: not one.has(config))
    return fitting[0] if fitting else settings.setdefault(_key(config, without), _Setting())


def _group(one: _Setting, left_out: list[tuple[Path, str]]) -> Group:
    cells = list(one.cells.values())
    _label(cells)
    rows = []
    # One batch size after the other, so that the answers of few runs are in memory at a time.
    for size in sorted({cell.config.batch_size for cell in cells}):
        dense: Graded | None = None
        for cell in sorted(
            (cell for cell in cells if cell.config.batch_size == size), key=lambda cell: not cell.dense
        ):
            graded = None if cell.run is None else cell.run.graded(left_out)
            dense = graded if cell.dense else dense
            if graded is not None or cell.divergence is not None:
                content = None if cell.divergence is None else cell.divergence.content
                rows.append(row(cell.label, size, target(cell.config), content, graded, dense))
    rows.sort(key=_place)
    config = next((cell.config for cell in cells if cell.run), cells[0].config)
    return Group(config.task, "", config, tuple(rows))


def _label(cells: Sequence[_Cell]) -> None:
    """Gives every cell its label."""
    alike: dict[tuple[float, int], list[_Cell]] = {}
    for cell in cells:
        alike.setdefault((target(cell.config), cell.config.batch_size), []).append(cell)
    for some in alike.values():
        for cell, label in zip(some, labels([cell.config for cell in some]), strict=True):
            cell.label = label


def _named(found: Sequence[Group]) -> list[Group]:
    """Gives every group a name that no other group of its model has, and a slug that no other group has."""
    tasks = [(group.model, group.config.fingerprint, group.name) for group in found]
    named = []
    for number, (group, task) in enumerate(zip(found, tasks, strict=True)):
        alike = [other.config for other, own in zip(found, tasks, strict=True) if own == task]
        c, told = group.config, _told_apart(alike)[alike.index(group.config)]
        short = slug(c.model.rsplit("/", 1)[-1], c.task, *([number + 1] if len(found) > 1 else []))
        named.append(replace(group, name=f"{group.name} ({told})" if told else group.name, slug=short))
    return named


def _told_apart(configs: Sequence[RunConfig]) -> list[str]:
    """Returns, for each configuration, the settings in which they differ, as words."""
    settings = [_without(config, (*_VARYING, "task_sha256", "prompts_sha256")) for config in configs]
    words = {"limit": "{} prompts", "max_new_tokens": "at most {} tokens"}
    return [
        ", ".join(words.get(name, name + " {}").format(str(value)[:24]) for name, value in own.items())
        for own in differing(settings)
    ]


def slug(*parts: object) -> str:
    """Returns a name for files and anchors: small letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", " ".join(map(str, parts)).lower()).strip("-")


def _place(row: ComparisonRow) -> tuple[bool, float, int, str, int]:
    """Sort key of a row: dense and the common sparsity come first, methods in the order of the grid."""
    unusual = row.target not in (0.0, float(SPARSITY))
    return unusual, row.target, _ORDER.get(row.label, len(_ORDER)), row.label, row.batch_size


def _key(config: RunConfig, without: Sequence[str]) -> str:
    return canonical(_without(config, without))


def _without(config: RunConfig, without: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in config.to_dict().items() if name not in without}


def _same(one: RunConfig, other: RunConfig, names: Sequence[str], without: Sequence[str] = ()) -> bool:
    """Returns True if both agree in the settings `names`, or, without names, in all but `without`."""
    mine: dict[str, Any] = one.to_dict()
    theirs: dict[str, Any] = other.to_dict()
    return all(mine.get(name) == theirs.get(name) for name in names or {*mine, *theirs} - set(without))
