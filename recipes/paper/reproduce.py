"""Runs tables 2 to 6 of the paper: `python recipes/paper/reproduce.py --out DIR`.

Prints the estimated hours and every command before it runs. The same command continues an interrupted run.
README.md names the settings, and what the paper does not say.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from commands import STEPS, Command, Setting, commands, small
from hours import estimates, told
from made_inputs import write_data, write_models, write_text
from regrow.errors import RegrowError, UsageError
from settings import MODELS, TABLES, Model, cells

Run = Callable[[Command], int]  # returns the exit code


def regrow(command: Command) -> int:
    """Runs a command in a process of its own, on this terminal."""
    return subprocess.run([sys.executable, "-m", "regrow", *command.arguments], check=False).returncode


def main(arguments: Sequence[str] | None = None, run: Run = regrow) -> int:
    """Runs what the arguments ask for; returns the exit code."""
    given = _parser().parse_args(arguments)
    try:
        if given.dry_run:
            with tempfile.TemporaryDirectory(prefix="regrow-dry-run-") as folder:
                return _run(given, _made(given, Path(folder)), run)
        return _run(given, _setting(given), run)
    except (UsageError, RegrowError) as error:
        print(f"reproduce: error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        print("reproduce: interrupted; the same command continues", file=sys.stderr)
        return 130


def _run(given: argparse.Namespace, setting: Setting, run: Run) -> int:
    tables, models = _tables(given.table), _models(given.model)
    planned = commands(setting, tables, models, _steps(given))
    if not planned:
        raise UsageError(f"the paper has no table {given.table} for {given.model}, or it takes no such step")
    if any(command.step == "evaluate" for command in planned):
        _say(*told(estimates(cells(tables, models))))
    if not given.list:
        _refuse(given, setting, planned)
    for number, command in enumerate(planned, 1):
        _say(f"[{number} of {len(planned)}] {command.line}")
        if given.list:
            continue
        if command.makes is not None and command.makes.exists():
            _say(f"{command.makes} is there; not run again")
            continue
        if code := run(command):
            raise RegrowError(f"`{command.line}` ended with {code}; when its cause is mended, run this again")
    return 0


def _refuse(given: argparse.Namespace, setting: Setting, planned: Sequence[Command]) -> None:
    """Raises UsageError if the run cannot work as a whole."""
    if setting.device == "auto" and any(command.step != "report" for command in planned):
        import torch

        if not torch.cuda.is_available():
            raise UsageError("there is no GPU here; use a machine with one, or --dry-run to try the commands")
    if any(command.step == "calibrate" for command in planned):
        return
    models, tables = _models(given.model), _tables(given.table)
    made = [command.makes for command in commands(setting, tables, models, ["calibrate"]) if command.makes]
    lacking = [path for path in made if not path.exists()]
    if lacking and any(command.step == "evaluate" for command in planned):
        raise UsageError(
            f"{lacking[0]} is not there, and all shards must share it; "
            "first run this once with --step calibrate and without --shard"
        )


def _say(*lines: str) -> None:
    print(*lines, sep="\n", flush=True)


def _setting(given: argparse.Namespace) -> Setting:
    weights: dict[str, str] = {}
    if given.weights is not None:
        for model in _models(given.model):
            folder = given.weights / model.title
            if not folder.is_dir():
                raise UsageError(
                    f"{folder} is not a directory; put {model.hub} there, or leave out --weights"
                )
            weights[model.name] = str(folder)
    return Setting(given.out, weights, given.data_dir, given.text, given.device, given.shard)


def _made(given: argparse.Namespace, folder: Path) -> Setting:
    """Writes the inputs of a dry run into the folder, and returns its setting."""
    stray = next((name for name in ("weights", "data_dir", "text") if getattr(given, name) is not None), None)
    if stray is not None:
        raise UsageError(f"--dry-run makes its own inputs; leave out --{stray.replace('_', '-')}")
    models = write_models(folder, _models(given.model))
    _say("Dry run: random tiny models, made questions and a made text. The results mean nothing.")
    return replace(
        small(_setting(given)),
        weights=models,
        data_dir=write_data(folder / "data"),
        text=write_text(folder / "text.txt"),
    )


def _models(name: str) -> list[Model]:
    return list(MODELS.values()) if name == "both" else [MODELS[name]]


def _tables(text: str) -> list[int]:
    """Returns the numbers of tables in a text such as 2,3. Raises UsageError for anything else."""
    found = [part.strip() for part in text.split(",")]
    if unknown := [part for part in found if part not in map(str, TABLES)]:
        raise UsageError(f"--table takes numbers from {', '.join(map(str, TABLES))}, not {unknown[0]!r}")
    return [int(part) for part in found]


def _steps(given: argparse.Namespace) -> list[str]:
    """Returns the steps to run. Shards share calibrations, so a shard by itself only evaluates."""
    if given.step is None:
        return list(STEPS) if given.shard is None else ["evaluate"]
    found = [part.strip() for part in given.step.split(",")]
    if unknown := [part for part in found if part not in STEPS]:
        raise UsageError(f"--step takes names from {', '.join(STEPS)}, not {unknown[0]!r}")
    if given.shard is not None and found != ["evaluate"]:
        raise UsageError("--shard shares out --step evaluate alone; run the other steps once, without it")
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Reproduce tables 2 to 6 of the paper.")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for all results")
    parser.add_argument("--model", choices=[*MODELS, "both"], default="both")
    parser.add_argument("--table", default=",".join(map(str, TABLES)), metavar="N,...", help="default: all")
    parser.add_argument("--step", metavar="NAME,...", help=f"of {', '.join(STEPS)}; default: all, in order")
    parser.add_argument("--shard", metavar="I/N", help="evaluate part I of N, after --step calibrate")
    parser.add_argument("--weights", type=Path, metavar="DIR", help="folder of the models; default: the hub")
    parser.add_argument("--data-dir", metavar="DIR", help="folder of the tasks; default: the hub")
    parser.add_argument("--text", metavar="FILE", help="text to calibrate on; default: C4 from the hub")
    parser.add_argument("--device", default="auto", metavar="NAME", help="such as cuda:1; default: a GPU")
    parser.add_argument("--list", action="store_true", help="print hours and commands, and run nothing")
    parser.add_argument(
        "--dry-run", action="store_true", help="run everything on tiny random models, on a CPU"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
