"""The versions that a run is made with, and those that Regrow supports."""

from __future__ import annotations

import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from regrow.errors import RegrowError

_ABSENT = "not installed"
# From the first version up to, but not including, the second. pyproject.toml has the same ranges.
SUPPORTED: Final[dict[str, tuple[tuple[int, int], tuple[int, int] | None]]] = {
    "torch": ((2, 11), None),
    "transformers": ((5, 17), (5, 20)),
}


def require_supported() -> None:
    """Raises RegrowError if torch or transformers is missing, or has a version that Regrow does not support.

    Imports neither of them, because a wrong version may fail to import.
    """
    for name, (first, beyond) in SUPPORTED.items():
        found = _version(name)
        if found == _ABSENT and find_spec(name) is not None:
            continue  # a package that runs from a folder has no known version
        parts = re.match(r"(\d+)\.(\d+)", found)
        number = (int(parts[1]), int(parts[2])) if parts else (0, 0)
        if number < first or (beyond is not None and number >= beyond):
            raise RegrowError(_unsupported(name, found, first, beyond))


def _unsupported(name: str, found: str, first: tuple[int, int], beyond: tuple[int, int] | None) -> str:
    lowest = f"{first[0]}.{first[1]}"
    until = "or newer" if beyond is None else f"to {beyond[0]}.{beyond[1] - 1}"
    below = "" if beyond is None else f",<{beyond[0]}.{beyond[1]}"
    is_there = "it is not installed" if found == _ABSENT else f"{found} is installed"
    return f"Regrow needs {name} {lowest} {until}, and {is_there}; pip install '{name}>={lowest}{below}'"


def versions() -> dict[str, str]:
    """Returns the versions of everything that decides the tokens.

    If this package runs from a git checkout, its commit is included, with `-dirty` if files were changed.
    """
    found = {name: _version(name) for name in ("regrow", "torch", "transformers")}
    return found | {"python": platform.python_version()} | _commit(Path(__file__).parent)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # not installed, or run from a folder
        return _ABSENT


def _commit(folder: Path) -> dict[str, str]:
    # A virtual environment often lies inside the checkout of another project, whose commit is not ours.
    if _git(folder, "ls-files", "--error-unmatch", Path(__file__).name) is None:
        return {}
    commit = _git(folder, "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*")
    return {"commit": commit} if commit else {}


def _git(folder: Path, *command: str) -> str | None:
    """Returns what git prints, or None if git fails or is not installed."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *command], capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
