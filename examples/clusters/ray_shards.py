"""Evaluates on a Ray cluster, one task and one GPU for each shard:

    python examples/clusters/ray_shards.py --shards 8 -- MODEL --task math500 --method bap --out results

What follows `--` are the arguments of `regrow evaluate`, all but --shard. Relative paths are those of the
directory in which this script is started, so it must be on a file system that all nodes share. Needs
`pip install ray`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import ray

RETRIES = 3  # if a node dies, Ray runs its shard again on another one, which continues the file


def evaluate(arguments: Sequence[str], shard: str, directory: Path) -> int:
    """Runs one shard in the directory; returns the exit code."""
    command = [sys.executable, "-m", "regrow", "evaluate", *arguments, "--shard", shard]
    return subprocess.run(command, cwd=directory, check=False).returncode


def main(arguments: Sequence[str], shards: int, gpus: float = 1) -> int:
    """Runs all shards, each on so many GPUs; returns 1 if one of them failed."""
    ray.init()
    task = ray.remote(num_gpus=gpus, max_retries=RETRIES)(evaluate)
    parts = [f"{number}/{shards}" for number in range(1, shards + 1)]
    codes = ray.get([task.remote(list(arguments), part, Path.cwd()) for part in parts])
    failed = [part for part, code in zip(parts, codes, strict=True) if code]
    if failed:
        print(f"shards {', '.join(failed)} failed; the same command runs what is missing", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Evaluate on a Ray cluster.")
    parser.add_argument("--shards", type=int, required=True)
    parser.add_argument("--gpus", type=float, default=1, help="of each shard; 0.5: two shards share one")
    parser.add_argument("arguments", nargs="+", help="of `regrow evaluate`, after --")
    given = parser.parse_args()
    sys.exit(main(given.arguments, given.shards, given.gpus))
