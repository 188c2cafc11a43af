"""What a run was made with."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def versions() -> dict[str, str]:
    """Versions of what decides the tokens, and the commit of this package where it runs from a checkout (`-dirty` if changed)."""
    found = {name: _version(name) for name in ("regrow", "torch", "transformers")}
    return found | {"python": platform.python_version()} | _commit(Path(__file__).parent)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # run from a folder, not installed
        return "not installed"


def _commit(folder: Path) -> dict[str, str]:
    # Installed packages often lie inside somebody else's checkout (a virtual environment): its commit is not ours.
    if _git(folder, "ls-files", "--error-unmatch", Path(__file__).name) is None:
        return {}
    commit = _git(folder, "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*")
    return {"commit": commit} if commit else {}


def _git(folder: Path, *command: str) -> str | None:
    """What git prints, or None where it fails or is not there."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *command], capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
