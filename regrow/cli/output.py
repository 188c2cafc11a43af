"""JSON lines, in the form that all commands write."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def line(value: Mapping[str, Any]) -> str:
    """Returns one line of ASCII JSON, without the newline."""
    return json.dumps(value, allow_nan=False)
