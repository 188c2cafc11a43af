"""Numbers for people, and the one Markdown table. None, where nothing was counted, is a dash."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

NONE = "–"


def percent(share: float | None, digits: int = 1) -> str:
    return NONE if share is None else f"{100 * share:.{digits}f} %"


def rate(value: float | None) -> str:
    return NONE if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def ratio(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}×"


def megabytes(count: float | None, digits: int = 4) -> str:
    return NONE if count is None else f"{count / 1e6:.{digits}g}"


def duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds) // 60} min {int(seconds) % 60} s"


def parameters(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items()) or NONE


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table, without the newline at its end. What would break a cell is replaced."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(cell, line))} |" for line in lines)


def cell(text: str) -> str:
    """The text on one line, with nothing that ends a cell and nothing that cannot be written as UTF-8."""
    return printable(" ".join(text.split())).replace("|", "\\|")


def printable(text: str) -> str:
    """The text with a question mark for each lone surrogate, which no encoding takes."""
    return text.encode(errors="replace").decode()
