"""Times one pruned FFN against the dense one: `python -m regrow.bench.ffn`. The last line printed is JSON.

Several layers run in turn, so that the weights of a layer are no longer in the cache when it runs again.
Dense steps, refreshes and sparse steps alternate.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from regrow.bench.operands import dense_ffn, ffn_weights, normal
from regrow.kernels import SparseFFN, choose_matmul, native, sparse_ffn

WIDTH, NEURONS = 1536, 8960  # Qwen2.5-1.5B
SPARSITY = 0.5
DTYPES, ROWS = (torch.bfloat16, torch.float32), (1, 4, 16)
LAYERS, REPEATS = 4, 15
STEPS = 20  # decode steps that share one refresh
TURNOVER = 0.2  # share of the retained neurons that a refresh replaces


def measure(dtype: torch.dtype, rows: int, *, sparsity: float, layers: int, repeats: int) -> dict[str, Any]:
    """Times one layer for x [rows, D]: median and quartiles over `repeats`, in milliseconds, and the speedup.

    The speedup counts 1 / STEPS of a refresh in every sparse step.
    """
    generator = torch.Generator().manual_seed(0)
    weights = [ffn_weights(WIDTH, NEURONS, dtype=dtype) for _ in range(layers)]
    keep = NEURONS - round(NEURONS * sparsity)
    scratch = torch.empty(keep, WIDTH, dtype=dtype)
    suited = choose_matmul(dtype, scratch.device, layers * 3 * weights[0].gate.nbytes)
    sparse = [
        sparse_ffn(w, keep, scratch, laid_out=suited if suited.lays_out(rows) else None) for w in weights
    ]
    index = torch.randperm(NEURONS, generator=generator)[:keep].sort().values
    _refresh(sparse, index)
    x = normal(rows, WIDTH, dtype=dtype)

    times: dict[str, list[float]] = {"dense": [], "sparse": [], "refresh": []}
    with native(suited.native(rows)):
        for _ in range(repeats + 2):  # the first two warm up
            index = _turned(index, generator)
            times["dense"].append(_clock(lambda: [dense_ffn(w, x) for w in weights]) / layers)
            times["refresh"].append(_clock(partial(_refresh, sparse, index)) / layers)
            times["sparse"].append(_clock(lambda: [ffn(x) for ffn in sparse]) / layers)
    ms = {name: statistics.median(values[2:]) for name, values in times.items()}
    quartiles = {name: statistics.quantiles(values[2:], n=4)[::2] for name, values in times.items()}
    ratio = ms["dense"] / (ms["sparse"] + ms["refresh"] / STEPS)
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "rows": rows,
        "ms": ms,
        "quartiles_ms": quartiles,
        "ratio": ratio,
    }


def bound(sparsity: float) -> float:
    """Highest speedup that the bytes allow.

    A dense step reads all weights. A sparse step reads the retained weights and has its share of a refresh,
    which reads and writes the replaced rows.
    """
    return 1 / ((1 - sparsity) * (1 + 2 * TURNOVER / STEPS))


def _refresh(sparse: Sequence[SparseFFN], index: Tensor) -> None:
    for ffn in sparse:
        ffn.load(index)


def _turned(index: Tensor, generator: torch.Generator) -> Tensor:
    """Returns `index` with the share TURNOVER of its neurons replaced by others, in ascending order."""
    count = round(len(index) * TURNOVER)
    outside = torch.ones(NEURONS, dtype=torch.bool).index_fill_(0, index, False).nonzero().squeeze(1)
    stay = index[torch.randperm(len(index), generator=generator)[count:]]
    come = outside[torch.randperm(len(outside), generator=generator)[:count]]
    return torch.cat([stay, come]).sort().values


def _clock(work: Callable[[], object]) -> float:
    """Runs `work` and returns its milliseconds."""
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1e3


def main() -> None:
    """Times every dtype and batch size, and prints the results."""
    torch.manual_seed(0)
    for dtype in DTYPES:
        size = 3 * NEURONS * WIDTH * dtype.itemsize / 1e6
        print(
            f"{dtype}: {size:.0f} MB a dense layer; "
            f"at most {bound(SPARSITY):.2f}x by bytes at {SPARSITY:.0%} sparsity"
        )
    results = []
    for dtype in DTYPES:
        for rows in ROWS:
            result = measure(dtype, rows, sparsity=SPARSITY, layers=LAYERS, repeats=REPEATS)
            ms = result["ms"]
            print(
                f"{result['dtype']:>8}  M = {rows:<2}  dense {ms['dense']:6.2f} ms  "
                f"sparse {ms['sparse']:6.2f} ms  refresh {ms['refresh']:5.2f} ms / {STEPS}  "
                f"ratio {result['ratio']:.2f}x",
                flush=True,
            )
            results.append(result)
    setting = {
        "width": WIDTH,
        "neurons": NEURONS,
        "sparsity": SPARSITY,
        "steps_per_refresh": STEPS,
        "turnover": TURNOVER,
    }
    machine = {
        "cpu": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    print(json.dumps({"bound": bound(SPARSITY), **setting, **machine, "results": results}))


if __name__ == "__main__":
    main()
