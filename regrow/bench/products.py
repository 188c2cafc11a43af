"""How fast a CPU reads the weights of a linear: `python -m regrow.bench.products`. The last line printed is JSON.

Few rows of x through oneDNN's product and through torch's own, on weights that no cache holds, in turn: why
`regrow.decoding.cpu_matmul` is there.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from regrow.bench.bandwidth import bandwidth
from regrow.bench.clock import Clock
from regrow.bench.ffn import NEURONS, WIDTH
from regrow.bench.run import device_name
from regrow.versions import versions

ROWS = 1, 2, 4, 8, 16
CPU = torch.device("cpu")


def measure(dtype: torch.dtype, rows: int, weights: Sequence[Tensor], repeats: int) -> dict[str, Any]:
    """For x [rows, D], how many gigabytes of weights [F, D] a second either product reads: medians over `repeats`."""
    x = torch.randn(rows, weights[0].shape[1]).to(dtype)
    onednn: Any = torch.backends.mkldnn
    before = onednn.enabled
    times: dict[str, list[float]] = {"own": [], "onednn": []}
    try:
        for _ in range(repeats + 1):  # the first warms up
            for product, seconds in times.items():
                onednn.enabled = product == "onednn"
                clock = Clock(CPU)
                for weight in weights:
                    linear(x, weight)
                clock.mark("all")
                seconds.append(clock.spans()[0][1])
    finally:
        onednn.enabled = before
    size = sum(weight.nbytes for weight in weights) / 1e9
    speed = {product: size / statistics.median(seconds[1:]) for product, seconds in times.items()}
    return {"dtype": str(dtype).removeprefix("torch."), "rows": rows, "gb_per_second": speed}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=12, help="weights of [8960, 1536] used in turn")
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args(arguments)
    torch.manual_seed(0)
    found = []
    with torch.inference_mode():
        for dtype in (torch.bfloat16, torch.float32):
            weights = [torch.randn(NEURONS, WIDTH).to(dtype) for _ in range(args.layers)]
            for rows in ROWS:
                found.append(measure(dtype, rows, weights, args.repeats))
                speed = found[-1]["gb_per_second"]
                print(f"{found[-1]['dtype']} {rows} rows: torch's own {speed['own']:.1f} GB/s, oneDNN's {speed['onednn']:.1f}", flush=True)
    read = bandwidth(CPU)["read"] / 1e9
    print(json.dumps({"made_with": {**versions(), "device": device_name(CPU)}, "read_gb_per_second": read, "products": found}))


if __name__ == "__main__":
    main()
