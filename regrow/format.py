"""Formats numbers for people. None (nothing was counted) becomes a dash."""

from __future__ import annotations

from collections.abc import Mapping

NONE = "–"


def percent(share: float | None, digits: int = 1) -> str:
    return NONE if share is None else f"{100 * share:.{digits}f} %"


def rate(value: float | None) -> str:
    """Formats a rate: with one decimal below 100, otherwise as a whole number."""
    return NONE if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def ratio(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}×"


def megabytes(count: float | None, digits: int = 4) -> str:
    """Formats bytes as megabytes (10^6 bytes) with `digits` significant digits, without the unit."""
    return NONE if count is None else f"{count / 1e6:.{digits}g}"


def duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds) // 60} min {int(seconds) % 60} s"


def count(number: int, one: str, several: str = "") -> str:
    """Formats a number of things, as `1 token` or `2 tokens`. `several`: a plural that has more than an s."""
    return f"{number} {one if number == 1 else several or f'{one}s'}"


def batches(number: int) -> str:
    return count(number, "batch", "batches")


def parameters(values: Mapping[str, object]) -> str:
    """Formats parameters as `name=value, name=value`."""
    return ", ".join(f"{name}={value}" for name, value in values.items()) or NONE


def cell(text: str) -> str:
    """Returns the text as a cell of a Markdown table: one line, `|` escaped, lone surrogates replaced."""
    return printable(" ".join(text.split())).replace("|", "\\|")


def printable(text: str) -> str:
    """Replaces lone surrogates, which UTF-8 cannot encode, with question marks."""
    return text.encode(errors="replace").decode()
