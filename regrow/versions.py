"""What a run was made with."""

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
# From the first to below the second; as in pyproject.toml.
SUPPORTED: Final[dict[str, tuple[tuple[int, int], tuple[int, int] | None]]] = {
    "torch": ((2, 11), None),
    "transformers": ((5, 17), (5, 20)),
}


def require_supported() -> None:
    """Raises RegrowError where torch or transformers is not installed, or in a version that Regrow was not written for.

    Neither is imported: one of a wrong version may not even import.
    """
    for name, (first, beyond) in SUPPORTED.items():
        found = _version(name)
        if found == _ABSENT and find_spec(name) is not None:
            continue  # run from a folder: its version is not known
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
    """Versions of what decides the tokens, and the commit of this package where it runs from a checkout (`-dirty` if changed)."""
    found = {name: _version(name) for name in ("regrow", "torch", "transformers")}
    return found | {"python": platform.python_version()} | _commit(Path(__file__).parent)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # run from a folder, not installed
        return _ABSENT


def _commit(folder: Path) -> dict[str, str]:
    # Installed packages often lie inside somebody else's checkout (a virtual environment): its commit is not ours.
    if _git(folder, "ls-files", "--error-unmatch", Path(__file__).name) is None:
        return {}
    commit = _git(folder, "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*")
    return {"commit": commit} if commit else {}


def _git(folder: Path, *command: str) -> str | None:
    """What git prints, or None where it fails or is not there."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *command], capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
