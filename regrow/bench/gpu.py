"""Everything that needs a GPU: `python -m regrow.bench.gpu`, or `make gpu`. Correctness first; times only if all of it holds.

Needs torch, transformers and Triton, nothing else. Writes gpu.json to --out; the last line printed is its path.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from regrow.bench import contenders
from regrow.bench.bandwidth import bandwidth
from regrow.bench.decode import Setting
from regrow.bench.gpu_checks import CHECKS, Check
from regrow.bench.gpu_kernels import kernel_times
from regrow.bench.result import PAPER, Result
from regrow.bench.run import Benchmark, device_name
from regrow.bench.shapes import SHAPES
from regrow.bench.turnover import bundled_turnover
from regrow.versions import versions


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/gpu"))
    parser.add_argument("--shape", action="append", choices=list(SHAPES), help="default: qwen-7b")
    parser.add_argument("--batch-size", action="append", type=int, help="default: 1, 4, 8, 16, 64")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--checks-only", action="store_true")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("regrow: error: no GPU is visible to torch here; run this on a machine with an NVIDIA GPU", file=sys.stderr)
        return 1
    device = torch.device("cuda")
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "gpu.json"
    checks = [_run(check, device) for check in CHECKS]
    result = Result({**versions(), "device": device_name(device)}, bandwidth(device), {"dtype": "bfloat16", "sparsity": 0.5}, [])
    right = all(check["holds"] for check in checks)
    kernels = kernel_times(device, result.bandwidth["copy"]) if right and not args.checks_only else []

    def write() -> None:
        path.write_text(json.dumps({**asdict(result), "checks": checks, "kernels": kernels}, indent=2) + "\n")

    write()
    for kernel in kernels:
        print(json.dumps(kernel), flush=True)
    if args.checks_only or not right:
        print(path)
        return 0 if right else 1
    turnover = bundled_turnover("0.5")
    result.settings["turnover"] = turnover
    for name in args.shape or ["qwen-7b"]:
        model = SHAPES[name].build(torch.bfloat16, device)
        methods = contenders.methods(contenders.METHODS, "0.5")
        benchmark = Benchmark(name, model, contenders.contenders(model, methods), result.bandwidth["copy"], turnover)
        for rows in args.batch_size or [1, 4, 8, 16, 64]:
            for row in benchmark.measure(Setting(rows, 128, 128), args.repeats, lambda _: None):
                result.rows.append(row)
                paper = PAPER.ratios.get((name, row.label, rows))
                ms = {part: round(value, 3) for part, value in row.ms.items()}
                print(
                    f"{name} batch {rows} {row.label}: {row.tokens_per_second.median:.1f} tokens/s, {row.ratio.median:.3f}x dense "
                    f"(at most {row.bound:.3f}x, paper {paper and round(paper, 3)}), {row.bandwidth_share:.0%} of bandwidth, ms {ms}",
                    flush=True,
                )
            write()
    print(path)
    return 0


def _run(check: Check, device: torch.device) -> dict[str, object]:
    found = check.run(device)
    print(f"{'holds' if found['holds'] else 'FAILS'}: {check.name}: {found['found']}", flush=True)
    return {"name": check.name, **found}


if __name__ == "__main__":
    sys.exit(main())
