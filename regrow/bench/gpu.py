"""Runs the measurements on a GPU: `python -m regrow.bench.gpu`, the second half of `make gpu`.

Needs only torch, transformers and Triton. The times of single kernels go to kernels.json in --out, the times
of decoding to decode.json, which has the format of `regrow bench`. Both files grow as results come in.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, final

import torch

from regrow.bench.bench_result import PAPER, BenchRow, Lost, Result
from regrow.bench.benchmark import Bound
from regrow.bench.contenders import METHODS, methods
from regrow.bench.gpu_kernels import kernel_times
from regrow.bench.machine import bandwidth, device_name
from regrow.bench.rounds import Setting
from regrow.bench.run import BenchPlan, Listener, run
from regrow.bench.shapes import SHAPES
from regrow.errors import RegrowError
from regrow.versions import versions
from regrow.whole_file import write_whole

PARTS = ("kernels", "decode")
SPARSITY, NEW = "0.5", 128


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, and returns the exit code."""
    args = _arguments(arguments)
    if not torch.cuda.is_available():
        return _fail("no GPU is visible to torch here; run this on a machine with an NVIDIA GPU")
    try:
        measure(args, torch.device("cuda"))
    except RegrowError as error:
        return _fail(str(error), error.exit_code)
    return 0


def measure(args: argparse.Namespace, device: torch.device) -> None:
    """Measures the kernels, decoding or both. Raises RegrowError if the results cannot be written."""
    parts = args.part or PARTS
    if "kernels" in parts:
        _kernels(device, args.out / "kernels.json")
    if "decode" in parts:
        run(_plan(args, device), Lines(), partial(_keep, args.out / "decode.json"))


@final
class Lines(Listener):
    """Prints one line for each contender."""

    def begin(self, result: Result) -> None: ...
    def bounds(self, model: str, bounds: Sequence[Bound]) -> None: ...
    def working(self, on: str, what: str) -> None: ...
    def end(self, result: Result) -> None: ...

    def rows(self, rows: Sequence[BenchRow], lost: Sequence[Lost]) -> None:
        for row in rows:
            print(_size(row), _speed(row), flush=True)
        for one in lost:
            print(_size(one), "not measured, for lack of memory", flush=True)


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/gpu"))
    parser.add_argument("--shape", action="append", choices=SHAPES, help="default: qwen-7b")
    parser.add_argument("--batch-size", action="append", type=int, help="default: 1, 4, 8, 16, 64")
    parser.add_argument("--prompt", action="append", type=int, help="tokens; default: 128")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--without-transformers",
        action="store_true",
        help="leave out transformers' own loop; its static cache compiles for a minute at every batch size",
    )
    parser.add_argument("--part", action="append", choices=PARTS, help="default: both")
    return parser.parse_args(given)


def _plan(args: argparse.Namespace, device: torch.device) -> BenchPlan:
    settings = [
        Setting(rows, prompt, NEW)
        for prompt in args.prompt or [128]
        for rows in args.batch_size or [1, 4, 8, 16, 64]
    ]
    return BenchPlan(
        model=None,
        shapes=args.shape or ["qwen-7b"],
        methods=methods(METHODS, SPARSITY),
        settings=settings,
        repeats=args.repeats,
        sparsity=SPARSITY,
        turnover=None,
        dtype="bfloat16",
        device=device,
        stock=not args.without_transformers,
    )


def _kernels(device: torch.device, path: Path) -> None:
    memory = bandwidth(device)
    found: dict[str, Any] = {
        "made_with": {**versions(), "device": device_name(device)},
        "bandwidth": memory,
        "kernels": [],
    }
    for kernel in kernel_times(device, memory["copy"]):
        found["kernels"].append(kernel)
        print(json.dumps(kernel), flush=True)
        write_whole(path, (json.dumps(found, indent=2) + "\n").encode())


def _keep(path: Path, result: Result) -> None:
    write_whole(path, (result.to_json() + "\n").encode())


def _size(row: BenchRow | Lost) -> str:
    return f"{row.model} batch {row.rows} prompt {row.prompt} {row.label}:"


def _speed(row: BenchRow) -> str:
    paper = PAPER.ratio(row)
    bound = f"at most {row.bound:.3f}x, paper {paper and round(paper, 3)}"
    ms = {part: round(value, 3) for part, value in row.ms.items()}
    return (
        f"{row.tokens_per_second.median:.1f} tokens/s, {row.ratio.median:.3f}x dense ({bound}), "
        f"{row.bandwidth_share:.0%} of bandwidth, ms {ms}"
    )


def _fail(sentence: str, code: int = 1) -> int:
    print(f"regrow: error: {sentence}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
