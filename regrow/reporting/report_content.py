"""The content of a report, and its numbers for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, final

from regrow.analysis.chart import Chart, draw, styles
from regrow.analysis.comparison_table import to_dict
from regrow.reporting import accuracy, cost
from regrow.reporting.groups import Group, groups
from regrow.reporting.paper import beside_the_paper
from regrow.reporting.section import Section
from regrow.reporting.sources import Bench, read
from regrow.reporting.speed import Timing, method, throughput, timings, tradeoff
from regrow.table import Column, Table


@final
@dataclass(frozen=True)
class ReportContent:
    """Everything that a report shows."""

    groups: tuple[Group, ...]
    benches: tuple[Bench, ...]
    sections: tuple[Section, ...]
    left_out: tuple[tuple[Path, str], ...]  # files that could not be read, with the reason
    styles: Mapping[str, Mapping[str, Any]]  # of every label in a chart

    @classmethod
    def of(cls, given: Sequence[Path]) -> ReportContent:
        """Reads and grades everything in these directories and files.

        Raises UsageError if a path does not exist or if there is no result at all, and UsageError or
        RegrowError if the files of one run cannot be graded together.
        """
        sources = read(given)
        found = groups(sources)
        timed = timings(sources.benches)
        return cls(
            tuple(found),
            tuple(sources.benches),
            tuple(_sections(found, timed)),
            tuple(sources.left_out),
            styles([*_labels(found), *(method(row) for one in timed for row in one.rows)]),
        )

    @cached_property
    def drawings(self) -> Mapping[str, str]:
        """The charts by name, as `svg` elements."""
        charts = [part for section in self.sections for part in section.parts if isinstance(part, Chart)]
        return {chart.name: draw(chart, self.styles) for chart in charts}

    @property
    def contents(self) -> Table:
        """A table of what was read."""
        rows = [(group.model, group.name, _runs(group), _versions(group)) for group in self.groups]
        rows += [(_models(bench), "speed", bench.name, _made_with(bench)) for bench in self.benches]
        columns = [Column(name, right=False) for name in ("model", "task", "results", "device and version")]
        notes = [f"Left out: {why}." for _, why in self.left_out]
        return Table.of(columns, rows, "", notes)

    def to_json(self) -> str:
        """Returns all numbers as JSON."""
        found = {
            "groups": [_group(group) for group in self.groups],
            "benches": [{"file": str(b.file), **asdict(b.result)} for b in self.benches],
            "left_out": [{"file": str(path), "why": why} for path, why in self.left_out],
        }
        return json.dumps(found, indent=1, allow_nan=False) + "\n"


def _sections(found: Sequence[Group], timed: Sequence[Timing]) -> list[Section]:
    return [
        accuracy.accuracy(found),
        accuracy.against_batch_size(found),
        accuracy.against_sparsity(found),
        throughput(timed),
        tradeoff(found, timed),
        cost.ablation(found),
        cost.against_bytes(found),
        cost.divergence(found),
        cost.lengths(found),
        beside_the_paper(found, timed),
    ]


def _labels(found: Sequence[Group]) -> list[str]:
    return [row.label for group in found for row in group.rows]


def _runs(group: Group) -> str:
    """Returns how many runs a group has, at which batch sizes and sparsities."""
    sizes = ", ".join(map(str, group.batch_sizes))
    targets = ", ".join(f"{100 * target:g} %" for target in sorted({row.target for row in group.rows}))
    incomplete = sum(1 for row in group.answered if row.summary and row.summary.missing)
    note = f" ({incomplete} incomplete)" if incomplete else ""
    count = len(group.answered)
    return f"{count} run{'' if count == 1 else 's'}{note}; batch {sizes}; target sparsity {targets}"


def _versions(group: Group) -> str:
    made = {v.get("torch", "") for row in group.answered if row.summary for v in row.summary.versions}
    return _on(group.config.device, *made)


def _made_with(bench: Bench) -> str:
    return _on(bench.device, bench.result.made_with.get("torch", ""))


def _on(device: str, *torch: str) -> str:
    return ", ".join([device, *(f"torch {version}" for version in sorted(torch) if version)])


def _models(bench: Bench) -> str:
    return ", ".join(dict.fromkeys(row.model for row in bench.result.rows))


def _group(group: Group) -> dict[str, Any]:
    rows = [to_dict(row) for row in group.rows]
    return {"model": group.model, "task": group.config.task, "setting": group.setting, "rows": rows}
