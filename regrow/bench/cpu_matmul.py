"""Times the matmuls of a CPU and prints which of them Regrow uses: `python -m regrow.bench.cpu_matmul`.

The speed of a matmul is the rate at which it reads the weights. The last line printed is JSON.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Final

import torch

from regrow.bench.machine import bandwidth, device_name
from regrow.kernels import choose_matmul
from regrow.versions import versions

DTYPES: Final = (torch.bfloat16, torch.float32)
CPU: Final = torch.device("cpu")
LARGE: Final = 10**9  # bytes of a model that fits no cache


def main() -> None:
    """Measures every dtype and prints the results."""
    found = {}
    for dtype in DTYPES:
        name = str(dtype).removeprefix("torch.")
        found[name] = measured = asdict(choose_matmul(dtype, CPU, LARGE))
        speeds = ", ".join(f"{matmul} {speed:.1f}" for matmul, speed in measured["speed"].items())
        print(f"{name}: GB/s by matmul and rows: {speeds}", flush=True)
        print(f"{name}: a single row takes {measured['alone']}, more take {measured['several']}")
    read = bandwidth(CPU)["read"] / 1e9
    print(
        json.dumps(
            {
                "made_with": {**versions(), "device": device_name(CPU)},
                "read_gb_per_second": read,
                "products": found,
            }
        )
    )


if __name__ == "__main__":
    main()
