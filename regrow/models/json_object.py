"""Reads files that hold a JSON object."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from regrow.errors import RegrowError, said

REMEDY = "correct it, or download or copy it again"


def read_object(path: Path) -> dict[str, Any]:
    """Returns the JSON object in a file. Raises RegrowError for anything else."""
    try:
        value = json.loads(path.read_bytes().decode())
    except OSError as error:
        raise RegrowError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise RegrowError(f"{path} is damaged, no JSON in UTF-8 ({said(error)}); {REMEDY}") from error
    if not isinstance(value, dict):
        raise RegrowError(f"{path} is damaged, no JSON object; {REMEDY}")
    return value
