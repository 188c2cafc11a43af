"""JSON lines, as every command writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def line(value: Mapping[str, Any]) -> str:
    """One line of JSON in ASCII, without its newline."""
    return json.dumps(value, allow_nan=False)
