"""Engines of vLLM in processes of their own: what tests of serving share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vllm_environment import SERVER

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "regrow" / "bundled" / "model"
Driven = dict[str, Any]
Drive = Callable[..., Driven]


def environment() -> dict[str, str]:
    """One thread for each process, because vLLM's threads wait for each other by spinning.

    Nor are processes bound to cores, of which a machine may have too few.
    """
    path = os.pathsep.join(str(ROOT / folder) for folder in (".", "tests", "recipes/serving"))
    cpu = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
    return os.environ | SERVER | cpu | {"PYTHONPATH": path}


def driven(plan: dict[str, Any], folder: Path) -> Driven:
    """Run a plan of `serving/drive.py`, and return what it wrote. `said` is what the process printed."""
    (folder / "plan.json").write_text(json.dumps(plan))
    script = ROOT / "tests" / "serving" / "drive.py"
    command = [sys.executable, script, folder / "plan.json", folder / "out.json"]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-4000:]
    found: Driven = json.loads((folder / "out.json").read_text())
    return found | {"said": ran.stdout + ran.stderr}
