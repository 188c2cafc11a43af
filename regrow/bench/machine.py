"""The device that a benchmark runs on: its name and its memory bandwidth."""

from __future__ import annotations

import platform
import statistics
from pathlib import Path

import torch

from regrow.bench.clock import Clock


def bandwidth(device: torch.device, *, megabytes: int | None = None, repeats: int = 7) -> dict[str, float]:
    """Measures the memory bandwidth in bytes a second, as the median of `repeats` passes after a warm-up.

    "read" is a sum over a tensor. "copy" counts both the bytes read and the bytes written. With the default
    size, the tensors are larger than any cache.
    """
    size = (megabytes or (4096 if device.type == "cuda" else 1024)) * 2**20
    source = torch.ones(size // 4, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    times: dict[str, list[float]] = {"read": [], "copy": []}
    for _ in range(repeats + 1):
        clock = Clock(device)
        source.sum()
        clock.mark("read")
        target.copy_(source)
        clock.mark("copy")
        for name, seconds in clock.spans():
            times[name].append(seconds)
    return {
        name: size * (2 if name == "copy" else 1) / statistics.median(values[1:])
        for name, values in times.items()
    }


def device_name(device: torch.device) -> str:
    """Name of the GPU, or name of the CPU with the number of threads that torch uses."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor()}, {torch.get_num_threads()} threads"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
