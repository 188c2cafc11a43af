"""Everything that needs a GPU: `python -m regrow.bench.gpu`, or `make gpu`. Correctness first; times only if all of it holds.

Needs torch, transformers and Triton, nothing else. Writes gpu.json to --out; the last line printed is its path.
"""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from regrow.bench import contenders
from regrow.bench.bandwidth import bandwidth
from regrow.bench.decode import Setting
from regrow.bench.gpu_checks import CHECKS, Check
from regrow.bench.gpu_kernels import kernel_times
from regrow.bench.result import PAPER, Lost, Result, Row
from regrow.bench.run import Benchmark, device_name
from regrow.bench.shapes import SHAPES
from regrow.bench.turnover import bundled_turnover
from regrow.versions import versions
from regrow.whole_file import write_whole

PARTS = ("checks", "kernels", "decode")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/gpu"))
    parser.add_argument("--shape", action="append", choices=SHAPES, help="default: qwen-7b")
    parser.add_argument("--batch-size", action="append", type=int, help="default: 1, 4, 8, 16, 64")
    parser.add_argument("--prompt", action="append", type=int, help="tokens; default: 128")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--part", action="append", choices=PARTS, help="default: all of them, each only if what comes before it holds")
    args = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("regrow: error: no GPU is visible to torch here; run this on a machine with an NVIDIA GPU", file=sys.stderr)
        return 1
    return measure(args, torch.device("cuda"))


def measure(args: argparse.Namespace, device: torch.device) -> int:
    """The exit code: 1 if a check does not hold."""
    args.out.mkdir(parents=True, exist_ok=True)
    path, parts = args.out / "gpu.json", args.part or PARTS
    result = Result({**versions(), "device": device_name(device)}, bandwidth(device), {"dtype": "bfloat16", "sparsity": 0.5})
    checks: list[dict[str, object]] = []
    kernels: list[dict[str, object]] = []

    def write() -> None:
        write_whole(path, (json.dumps({**asdict(result), "checks": checks, "kernels": kernels}, indent=2) + "\n").encode())

    for check in CHECKS if "checks" in parts else ():
        checks.append(_run(check, device))
        write()
    if not all(check["holds"] for check in checks):
        print(path)
        return 1
    for kernel in kernel_times(device, result.bandwidth["copy"]) if "kernels" in parts else ():
        kernels.append(kernel)
        print(json.dumps(kernel), flush=True)
        write()
    if "decode" not in parts:
        print(path)
        return 0
    turnover = bundled_turnover("0.5")
    result.settings["turnover"] = turnover
    for name in args.shape or ["qwen-7b"]:
        model = SHAPES[name].build(torch.bfloat16, device)
        methods = contenders.methods(contenders.METHODS, "0.5")
        benchmark = Benchmark(name, model, contenders.contenders(model, methods), result.bandwidth["copy"], turnover)
        settings = [Setting(rows, prompt, 128) for prompt in args.prompt or [128] for rows in args.batch_size or [1, 4, 8, 16, 64]]
        for setting in settings:
            rows = benchmark.measure(setting, args.repeats, lambda _: None)
            result.rows.extend(rows)
            result.lost.extend(lost := benchmark.lost(setting, rows))
            for row in rows:
                print(_size(row), _speed(row), flush=True)
            for one in lost:
                print(_size(one), "not measured, for lack of memory", flush=True)
            write()
    print(path)
    return 0


def _size(row: Row | Lost) -> str:
    return f"{row.model} batch {row.rows} prompt {row.prompt} {row.label}:"


def _speed(row: Row) -> str:
    paper = PAPER.ratio(row)
    bound = f"at most {row.bound:.3f}x, paper {paper and round(paper, 3)}"
    ms = {part: round(value, 3) for part, value in row.ms.items()}
    return (
        f"{row.tokens_per_second.median:.1f} tokens/s, {row.ratio.median:.3f}x dense ({bound}), "
        f"{row.bandwidth_share:.0%} of bandwidth, ms {ms}"
    )


def _run(check: Check, device: torch.device) -> dict[str, object]:
    try:
        found = check.run(device)
    except Exception as error:  # noqa: BLE001 (of a kernel that does not compile: the others are still checked)
        traceback.print_exc()
        found = {"holds": False, "found": f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"}
    print(f"{'holds' if found['holds'] else 'FAILS'}: {check.name}: {found['found']}", flush=True)
    return {"name": check.name, **found}


if __name__ == "__main__":
    sys.exit(main())
