"""Measures how far lossy methods are from the dense model, along dense answers.

    python recipes/real_models/lossy.py MODEL PROBLEMS --out results/lossless/lossy.json

Every method is measured on the stored weights, and some on weights of 4 bits. The table is in
docs/lossless.md. The model is changed in memory, not on disk.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import regrow
from regrow.bench.machine import device_name
from regrow.evaluation.divergence import Trace, divergence, trace
from regrow.method.base import Method
from regrow.models import Loaded, load
from regrow.versions import versions
from regrow.whole_file import write_whole

# Batch size -> problems.
PROBLEMS = {1: 2, 4: 4, 16: 16}
METHODS: dict[str, Method] = {
    "BAP 50 %": regrow.BatchwiseAdaptive(0.5),
    "BAP 50 %, weighed": regrow.BatchwiseAdaptive(0.5, weigh="down"),
    "BAP 30 %": regrow.BatchwiseAdaptive(0.3),
    "BAP 30 %, weighed": regrow.BatchwiseAdaptive(0.3, weigh="down"),
}
ROUNDED: dict[str, Method] = {
    "dense": regrow.Dense(),
    "BAP 50 %": regrow.BatchwiseAdaptive(0.5),
    "BAP 50 %, weighed": regrow.BatchwiseAdaptive(0.5, weigh="down"),
}
STORED = "stored"
FOUR_BITS = (4 + 2 * 16 / 128) / 16  # bytes of a rounded weight, its share of scale and offset, in bfloat16

# Weights -> the methods that are measured on them, and the bytes of a weight relative to bfloat16.
WEIGHTS = {STORED: (METHODS, 1.0), "4 bits": (ROUNDED, FOUR_BITS)}


def main() -> int:
    args = _arguments()
    loaded = load(str(args.model))
    questions = [json.loads(line)["question"] for line in args.problems.read_text().splitlines()]
    traces = {rows: _traces(loaded, questions, rows, args.new) for rows in args.batch_size or PROBLEMS}
    found: dict[str, Any] = (
        json.loads(args.out.read_text())
        if args.out.exists()
        else {
            "made_with": {**versions(), "device": device_name(loaded.model.device)},
            "settings": {"problems": args.problems.parent.name, "new": args.new, "count": PROBLEMS},
            "rows": [],
        }
    )
    for weights in args.weights or WEIGHTS:
        methods, bytes_each = WEIGHTS[weights]
        if weights != STORED:
            regrow.round_weights(loaded.model)
        for name, method in methods.items():
            for rows, some in traces.items():
                result = divergence(loaded, method, None, some)
                row = {
                    "method": name,
                    "weights": weights,
                    "batch": rows,
                    "tokens": result.tokens,
                    "kl": result.mean_kl,
                    "agreement": result.agreement,
                    "ffn_bytes": bytes_each * result.weights_kept / result.weights_dense,
                }
                found["rows"].append(row)
                print(json.dumps(row), file=sys.stderr, flush=True)
                write_whole(args.out, (json.dumps(found, indent=2) + "\n").encode())
    return 0


def _traces(loaded: Loaded, questions: Sequence[str], rows: int, new: int) -> list[Trace]:
    starts = range(0, PROBLEMS.get(rows, rows), rows)
    return [trace(loaded, questions[start : start + rows], chat=True, max_new_tokens=new) for start in starts]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("problems", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--new", type=int, default=256, help="new tokens of a problem at most")
    parser.add_argument(
        "--weights", action="append", choices=WEIGHTS, help="default: both; rows are added to those of --out"
    )
    parser.add_argument("--batch-size", type=int, action="append", help="default: 1, 4 and 16")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
