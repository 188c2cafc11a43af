"""Times the matmuls of a CPU and prints which of them Regrow uses: `python -m regrow.bench.cpu_matmul`.

The speed of a matmul is the rate at which it reads the weights. Weights of 4 bits are compared with bfloat16
weights, and with torch's own 4-bit matmul, in milliseconds. The last line printed is JSON.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, Final

import torch
from torch import Tensor

from regrow.bench.machine import bandwidth, device_name
from regrow.kernels import Codes, LaidOutWeight, can_lay_out, choose_matmul, packed
from regrow.versions import versions

DTYPES: Final = (torch.bfloat16, torch.float32)
CPU: Final = torch.device("cpu")
LARGE: Final = 10**9  # bytes of a model that fits no cache
# A gate projection of Qwen2.5-1.5B, so many times that no cache holds the 4-bit weights, and the rows of x.
OUTPUTS, INPUTS, COUNT, ROWS, REPEATS = 8960, 1536, 24, (1, 2, 4, 9, 16, 36), 5


def four_bits() -> dict[str, dict[str, float]]:
    """Returns the milliseconds of a matmul by rows of x, for each kind of weight [8960, 1536].

    bfloat16 weights are laid out if this CPU has matmuls for them.
    """
    stored = torch.randn(OUTPUTS, INPUTS).bfloat16()
    codes, most = Codes.of(stored), choose_matmul(torch.bfloat16, CPU, LARGE).most
    lays_out = can_lay_out(torch.bfloat16)
    kinds: dict[str, Callable[[], Callable[[Tensor], Tensor]]] = {
        f"bfloat16, {'laid out' if lays_out else 'as stored'}": lambda: (
            LaidOutWeight(stored, 1, most) if lays_out else _stored(stored.clone())
        ),
        "4 bits, Regrow's": lambda: packed(codes, torch.bfloat16),
        "4 bits, torch's": lambda: _torchs(codes),
    }
    found = {}
    for name, make in kinds.items():
        weights = [make() for _ in range(COUNT)]
        found[name] = {str(rows): _milliseconds(weights, rows) for rows in ROWS}
    return found


def _stored(weight: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda x: torch.nn.functional.linear(x, weight)


def _torchs(codes: Codes) -> Callable[[Tensor], Tensor]:
    aten: Any = torch.ops.aten
    weight = aten._convert_weight_to_int4pack_for_cpu(codes.codes.int(), 1)
    # torch multiplies the scale by the code minus 8.
    factors = torch.stack([codes.scale, codes.offset + 8 * codes.scale], dim=-1).transpose(0, 1)
    held = factors.bfloat16().contiguous()
    return lambda x: aten._weight_int4pack_mm_for_cpu(x, weight, codes.group, held)


def _milliseconds(weights: Sequence[Callable[[Tensor], Tensor]], rows: int) -> float:
    x, seconds = torch.randn(rows, INPUTS).bfloat16(), []
    for _ in range(REPEATS):
        began = time.perf_counter()
        for weight in weights:
            weight(x)
        seconds.append(time.perf_counter() - began)
    return 1e3 * min(seconds) / len(weights)


def main() -> None:
    """Measures every dtype and prints the results."""
    found = {}
    for dtype in DTYPES:
        name = str(dtype).removeprefix("torch.")
        found[name] = measured = asdict(choose_matmul(dtype, CPU, LARGE))
        speeds = ", ".join(f"{matmul} {speed:.1f}" for matmul, speed in measured["speed"].items())
        print(f"{name}: GB/s by matmul and rows: {speeds}", flush=True)
        print(f"{name}: a single row takes {measured['alone']}, more take {measured['several']}")
    milliseconds = four_bits()
    for name, times in milliseconds.items():
        shown = ", ".join(f"{rows}: {taken:.2f}" for rows, taken in times.items())
        print(f"{name}: ms by rows, {OUTPUTS} x {INPUTS}: {shown}", flush=True)
    read = bandwidth(CPU)["read"] / 1e9
    print(
        json.dumps(
            {
                "made_with": {**versions(), "device": device_name(CPU)},
                "read_gb_per_second": read,
                "products": found,
                "four_bits_ms": milliseconds,
            }
        )
    )


if __name__ == "__main__":
    main()
