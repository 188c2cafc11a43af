"""What a report consists of: sections of tables and charts, and the parts that several sections share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import final

from regrow.analysis.chart import Chart, Line, Point
from regrow.analysis.comparison_table import ComparisonRow
from regrow.analysis.summary import Share
from regrow.table import Table


@final
@dataclass(frozen=True)
class Section:
    """A section. Without parts it is one line that says what is missing."""

    name: str  # for anchors: letters, digits and hyphens
    title: str
    about: str  # what is shown, and how to read it
    parts: tuple[Table | Chart, ...]
    absent: str  # a sentence: why there are no parts


def by_label(rows: Iterable[ComparisonRow]) -> dict[str, list[ComparisonRow]]:
    """Groups rows by their label, in the order in which labels occur."""
    found: dict[str, list[ComparisonRow]] = {}
    for row in rows:
        found.setdefault(row.label, []).append(row)
    return found


def line(label: str, points: Sequence[Point | None]) -> Line:
    """Returns a line through the points that are known, in order of x."""
    return Line(label, tuple(sorted((point for point in points if point), key=lambda point: point.x)))


def percents(share: Share) -> tuple[float, tuple[float, float]] | None:
    """Returns a share and its 95 % interval in percent; None if nothing was counted."""
    ends = share.interval()
    if share.value is None or ends is None:
        return None
    return 100 * share.value, (100 * ends[0], 100 * ends[1])


def complete(row: ComparisonRow) -> bool:
    """Returns True if the row has answers to every prompt."""
    return row.summary is not None and not row.summary.missing
