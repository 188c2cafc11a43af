"""Every Triton kernel compiles for A100 and H100, with the installed Triton and the oldest supported one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kernels.ahead_of_time import ARCHITECTURES, LARGEST_SHARED, REGISTERS, SMALL_SHARED
from kernels.variants import VARIANTS

TESTS = Path(__file__).parents[1]
FEW_SPILLED = 32  # bytes of stack: where a version of Triton lacks a few registers outside of a loop
OLDEST = Path(sys.prefix) / "triton-3.6"  # put there by `make test`


def compiled(older: Path | None = None) -> dict[str, Any]:
    path = [str(TESTS), str(TESTS.parent)] if older is None else [str(older), str(TESTS), str(TESTS.parent)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "TRITON_DEFAULT_FP_FUSION": "1"}
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run(
        [sys.executable, "-m", "kernels.ahead_of_time"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.mark.parametrize("older", [None, OLDEST], ids=["pinned", "3.6"])
def test_every_kernel_compiles_and_fits(older: Path | None) -> None:
    assert older is None or older.is_dir(), (
        "no Triton 3.6 there: run the tests with `make test`, which installs it"
    )
    result = compiled(older)
    assert older is None or result["triton"].startswith("3.6.")
    assert len(result["compiled"]) == len(VARIANTS) * len(ARCHITECTURES)
    for done in result["compiled"]:
        assert done["shared"] <= (
            SMALL_SHARED if "small" in done["variant"] else LARGEST_SHARED[done["architecture"]]
        ), done
        assert done["programs"] * done["registers"] * done["threads"] <= REGISTERS, done
        assert done["stack"] <= FEW_SPILLED or "fp32" in done["variant"], done
