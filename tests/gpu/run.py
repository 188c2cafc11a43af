"""Runs the checks of this folder without pytest: `PYTHONPATH=.:tests python -m gpu.run --out DIR`.

A check is a test function without parameters, and what it prints is its result. All checks are run.
DIR/checks.json is rewritten after each of them. The exit code is 1 if a check fails.
"""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path

Check = Callable[[], None]


def checks() -> dict[str, Check]:
    """Returns the test functions of this folder, by their names in words."""
    modules = [
        vars(import_module(f"gpu.{path.stem}")) for path in sorted(Path(__file__).parent.glob("test_*.py"))
    ]
    return {
        name[5:].replace("_", " "): check
        for module in modules
        for name, check in module.items()
        if name.startswith("test_")
    }


def run(name: str, check: Check) -> dict[str, object]:
    """Runs one check, and returns its name, its result, and whether it holds."""
    said, holds = StringIO(), True
    try:
        with redirect_stdout(said):
            check()
    except Exception as error:  # noqa: BLE001 (if a kernel does not compile, the others are still checked)
        traceback.print_exc()
        said.write(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")
        holds = False
    found = "; ".join(said.getvalue().splitlines())
    print(f"{'holds' if holds else 'FAILS'}: {name}{found and ': '}{found}", flush=True)
    return {"name": name, "holds": holds, "found": found}


def run_all(checks: Mapping[str, Check], out: Path) -> int:
    """Runs the checks, writes their results to `out`, and returns the exit code."""
    done: list[dict[str, object]] = []
    out.mkdir(parents=True, exist_ok=True)
    for name, check in checks.items():
        done.append(run(name, check))
        (out / "checks.json").write_text(json.dumps({"checks": done}, indent=2) + "\n")
    return 0 if all(one["holds"] for one in done) else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs all checks on this machine's GPU, and returns the exit code."""
    import torch

    from gpu.sizes import INTERPRETED

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/gpu"))
    out = parser.parse_args(arguments).out
    if INTERPRETED or not torch.cuda.is_available():
        why = "TRITON_INTERPRET is set; unset it" if INTERPRETED else "no GPU is visible to torch here"
        print(f"regrow: error: {why}, and run this on a machine with an NVIDIA GPU", file=sys.stderr)
        return 1
    return run_all(checks(), out)


if __name__ == "__main__":
    sys.exit(main())
