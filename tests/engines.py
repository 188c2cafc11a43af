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


class Driver:
    """A process that runs plans of `serving/drive.py` one after the other, so that it imports vLLM once."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._log, self._count = folder, folder / "log", 0
        self._process = self._start()

    def __call__(self, plan: dict[str, Any]) -> Driven:
        """Run a plan, and return what came out. A process that has failed is started anew."""
        if self._process.poll() is not None:
            self._process = self._start()
        self._count += 1
        given, out = (self._folder / f"{self._count}-{name}.json" for name in ("plan", "out"))
        given.write_text(json.dumps(plan))
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(given, out, file=self._process.stdin, flush=True)
        if self._process.stdout.readline() != "done\n":
            self._process.wait()
            raise AssertionError(self._log.read_text()[-6000:])
        found: Driven = json.loads(out.read_text())
        return found

    def close(self) -> None:
        """Let the process end."""
        self._process.communicate()

    def _start(self) -> subprocess.Popen[str]:
        with self._log.open("wb") as log:
            return subprocess.Popen(
                [sys.executable, ROOT / "tests" / "serving" / "drive.py"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment(),
            )  # fmt: skip
