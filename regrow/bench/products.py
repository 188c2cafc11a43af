"""How fast a CPU reads the weights of a linear: `python -m regrow.bench.products`. The last line printed is JSON.

Few rows of x through oneDNN's product and through torch's own, on weights that no cache holds, in turn: why
`regrow.decoding.cpu_matmul` is there.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from regrow.bench.clock import Clock
from regrow.bench.ffn import DTYPES, NEURONS, WIDTH
from regrow.bench.machine import bandwidth, device_name
from regrow.bench.operands import normal
from regrow.versions import versions

ROWS = 1, 2, 4, 8, 16
LAYERS, REPEATS = 12, 7  # of weights [8960, 1536], used in turn
CPU = torch.device("cpu")


def measure(dtype: torch.dtype, rows: int, weights: Sequence[Tensor], repeats: int) -> dict[str, Any]:
    """For x [rows, D], how many gigabytes of weights [F, D] a second either product reads: medians over `repeats`."""
    x = normal(rows, weights[0].shape[1], dtype=dtype)
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


def main() -> None:
    torch.manual_seed(0)
    found = []
    with torch.inference_mode():
        for dtype in DTYPES:
            weights = [normal(NEURONS, WIDTH, dtype=dtype) for _ in range(LAYERS)]
            for rows in ROWS:
                found.append(measure(dtype, rows, weights, REPEATS))
                speed = found[-1]["gb_per_second"]
                print(f"{found[-1]['dtype']} {rows} rows: torch's own {speed['own']:.1f} GB/s, oneDNN's {speed['onednn']:.1f}", flush=True)
    read = bandwidth(CPU)["read"] / 1e9
    print(json.dumps({"made_with": {**versions(), "device": device_name(CPU)}, "read_gb_per_second": read, "products": found}))


if __name__ == "__main__":
    main()
