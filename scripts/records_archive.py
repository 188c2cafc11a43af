"""Packs the record files of a comparison into one compressed archive, or unpacks them again.

    python scripts/records_archive.py pack results/comparison
    python scripts/records_archive.py unpack results/comparison

The archive is DIR/records.tar.xz. Equal records give an equal archive, byte for byte, so its sha256
identifies them. `regrow table`, `regrow grade` and `regrow report` read the unpacked files.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import lzma
import sys
import tarfile
from pathlib import Path


def pack(directory: Path) -> Path:
    """Writes the archive of all records in DIR/records, and returns its path."""
    records = sorted((directory / "records").glob("*.jsonl"))
    if not records:
        sys.exit(f"{directory}/records holds no record files; name the directory of a comparison")
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path in records:
            entry = tarfile.TarInfo(f"records/{path.name}")  # without times and owners
            entry.size = path.stat().st_size
            with path.open("rb") as file:
                archive.addfile(entry, file)
    made = directory / "records.tar.xz"
    made.write_bytes(lzma.compress(data.getvalue(), preset=9 | lzma.PRESET_EXTREME))
    return made


def unpack(directory: Path) -> int:
    """Writes DIR/records from the archive, and returns the number of files."""
    with tarfile.open(directory / "records.tar.xz") as archive:
        archive.extractall(directory, filter="data")
        return len(archive.getnames())


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(description="Pack or unpack the record files of a comparison.")
    parser.add_argument("what", choices=["pack", "unpack"])
    parser.add_argument("directory", type=Path)
    given = parser.parse_args()
    if given.what == "unpack":
        print(f"{unpack(given.directory)} record files in {given.directory / 'records'}")
        return
    made = pack(given.directory)
    print(f"{made}: {made.stat().st_size:,} bytes, sha256 {hashlib.sha256(made.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()
