"""Numbers for people. None, where nothing was counted, is a dash."""

from __future__ import annotations

from collections.abc import Mapping

NONE = "–"


def percent(value: float | None) -> str:
    return NONE if value is None else f"{100 * value:.1f} %"


def rate(value: float | None) -> str:
    return NONE if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def ratio(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}×"


def duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds) // 60} min {int(seconds) % 60} s"


def parameters(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items()) or NONE
