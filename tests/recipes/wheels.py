"""Tiny wheels that pip can download from a folder."""

from __future__ import annotations

import zipfile
from pathlib import Path


def wheel(folder: Path, package: str, version: str, members: dict[str, bytes]) -> Path:
    """Write a wheel that holds `members` (path inside: content)."""
    name = f"{package.replace('-', '_')}-{version}"
    info = f"{name}.dist-info"
    about = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": "",
    }
    path = folder / f"{name}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in {**members, **about}.items():
            archive.writestr(member, content)
    return path
