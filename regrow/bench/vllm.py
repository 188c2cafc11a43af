"""vLLM as a contender: its dense engine in its own environment and process, on the same weights, prompts and threads."""

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

from regrow.bench.generation import Setting
from regrow.errors import RegrowError, UsageError

CACHE_GB: Final = 1  # of keys and values
WORKER: Final = Path(__file__).with_name("vllm_worker.py")
_MESSAGES: Final = 4000  # characters of the worker's that are looked at


@final
class Vllm:
    """A worker process that runs batches when it is told to, and waits in between."""

    def __init__(
        self, python: Path, weights: Path, dtype: str, settings: Sequence[Setting], *, eager: bool
    ) -> None:
        """Raises UsageError for a Python without vLLM, RegrowError where the engine does not start."""
        self.version = version_of(python)
        told = {"model": str(weights), "dtype": dtype, "eager": eager}
        told |= {"rows": max(s.rows for s in settings), "tokens": max(s.prompt + s.new for s in settings)}
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as the worker)
        self._process = subprocess.Popen(
            [python, "-P", WORKER, json.dumps(told)],  # modules beside the worker are none of vLLM's
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=os.environ | _environment(),
        )
        self._answer()

    def run(self, ids: Tensor, new: int) -> list[tuple[str, float]]:
        """The phases of one batch of prompts ids [B, P] and `new` tokens, with their seconds."""
        assert self._process.stdin is not None
        print(json.dumps({"ids": ids.tolist(), "new": new}), file=self._process.stdin, flush=True)
        return [(name, seconds) for name, seconds in json.loads(self._answer())]

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._log.close()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._log.seek(0)
            said = self._log.read().decode(errors="replace")[-_MESSAGES:].strip().splitlines()
            self.close()
            raise RegrowError(
                f"vLLM ended with exit code {self._process.returncode}: {said[-1] if said else 'it said nothing'}"
            )
        return line


@contextmanager
def started(
    python: Path, model: PreTrainedModel, weights: Path | str, settings: Sequence[Setting], *, eager: bool
) -> Iterator[Vllm]:
    """vLLM with the weights of `model`, from the directory that holds them; those of a shape are saved once, by its name."""
    dtype = str(model.dtype).removeprefix("torch.")
    directory = weights if isinstance(weights, Path) else _saved(model, f"{weights}-{dtype}")
    worker = Vllm(python, directory, dtype, settings, eager=eager)
    try:
        yield worker
    finally:
        worker.close()


def _environment() -> dict[str, str]:
    """Nothing is looked up or reported, and as many threads as here."""
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
    """Of vLLM there. Raises UsageError without one."""
    asked = "from importlib.metadata import version; print(version('vllm-cpu'), version('torch'))"
    try:
        said = subprocess.run([python, "-c", asked], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise UsageError(f"{python} is no Python that has vllm-cpu; `make bench-vllm` makes one") from error
    return said.stdout.strip()


def _saved(model: PreTrainedModel, name: str) -> Path:
    """The directory of a shape's weights, which are the same every time."""
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "regrow" / "shapes"
    target = home / name
    if target.is_dir():
        return target
    home.mkdir(parents=True, exist_ok=True)
    needed, free = sum(parameter.nbytes for parameter in model.parameters()), shutil.disk_usage(home).free
    if free < 1.1 * needed:
        raise RegrowError(
            f"{home} has {free / 1e9:.1f} GB free, and the weights that vLLM loads take {needed / 1e9:.1f}; free some"
        )
    with tempfile.TemporaryDirectory(dir=home) as made:
        whole: Any = model
        whole.save_pretrained(Path(made) / name)
        (Path(made) / name).rename(target)
    return target
