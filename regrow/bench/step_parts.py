"""What a decode step on a CPU spends beside its weights: `python -m regrow.bench.step_parts`. The last line printed is JSON.

The dense steps of a shape through Regrow's loop, under torch's profiler, which adds some microseconds to every operation:
what is not matmuls is at most what is printed here. Then attention alone, over longer contexts, with the bytes that it reads.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch.profiler import ProfilerActivity, profile

from regrow.bench.clock import Clock
from regrow.bench.machine import bandwidth, device_name
from regrow.bench.shapes import shape
from regrow.decoding import stepper
from regrow.hosts.engine import Engine
from regrow.kernels import LaidOutWeight, attention_workspace, decode_attention
from regrow.versions import versions

SHAPE: Final = "qwen-1.5b"
ROWS, STEPS = (1, 16), 24
CONTEXTS, CONTEXT_ROWS = (4000, 16000), (1, 8)
HEADS, KV_HEADS, HEAD_WIDTH, REPEATS = 12, 2, 128, 5  # of the shape
MATMULS: Final = ("mkldnn::_linear_pointwise", "aten::mm", "aten::addmm")
ATTENTION: Final = ("aten::_scaled_dot_product_flash_attention_for_cpu",)
CPU: Final = torch.device("cpu")


def step(model: Any, rows: int, new: int) -> dict[str, float]:
    """Milliseconds of a dense step, and in it of matmuls and of attention."""
    ids = torch.randint(100, (rows, 1))  # so that the prompt is a pass like the steps
    how: dict[str, Any] = {"do_sample": False, "pad_token_id": 0}
    with Engine(model, owns_model=True) as engine:
        engine.generate(ids, max_new_tokens=4, **how)
        with (
            timed(LaidOutWeight, "__call__") as ours,
            timed(stepper, "decode_attention") as attending,
            profile(activities=[ProfilerActivity.CPU]) as profiled,
        ):
            report = engine.generate(ids, max_new_tokens=new, **how).report
    passes = report.decode_steps + 1
    spent = {event.key: event.self_cpu_time_total / 1e3 / passes for event in profiled.key_averages()}
    found = {"step": 1e3 * report.decode_seconds / report.decode_steps}
    for name, seconds, operations in (("matmuls", ours, MATMULS), ("attention", attending, ATTENTION)):
        # Inside of ours, which the profiler does not know, torch's may run: then they are counted once.
        found[name] = 1e3 * sum(seconds) / passes or sum(spent.get(operation, 0) for operation in operations)
    return found


@contextmanager
def timed(of: Any, name: str) -> Iterator[list[float]]:
    """The seconds of every call of a function of a class or a module."""
    function, seconds = getattr(of, name), []

    def watched(*arguments: Any, **options: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*arguments, **options)
        finally:
            seconds.append(time.perf_counter() - began)

    setattr(of, name, watched)
    try:
        yield seconds
    finally:
        setattr(of, name, function)


def attention(rows: int, context: int, layers: int = 4) -> dict[str, float]:
    """Milliseconds of one layer's attention of a token a row over `context` tokens, and the gigabytes a second that it reads."""
    caches = torch.randn(layers, 2, rows, KV_HEADS, context, HEAD_WIDTH).bfloat16()
    query = torch.randn(rows, 1, HEADS, HEAD_WIDTH).bfloat16()
    out, workspace = torch.empty_like(query), attention_workspace(query, KV_HEADS, context)
    start = torch.zeros(rows, dtype=torch.int64)
    length = torch.full_like(start, context - 1)
    seconds = []
    for _ in range(REPEATS + 1):
        clock = Clock(CPU)
        for keys, values in caches:
            decode_attention(query, keys, values, start, length, HEAD_WIDTH**-0.5, out, workspace)
        clock.mark("all")
        seconds.append(clock.spans()[0][1])
    median = statistics.median(seconds[1:])
    return {"ms_a_layer": 1e3 * median / layers, "gb_per_second": caches.nbytes / 1e9 / median}


def main(rows: Sequence[int] = ROWS, contexts: Sequence[int] = CONTEXTS, new: int = STEPS, name: str = SHAPE) -> None:
    torch.manual_seed(0)
    model = shape(name).build(torch.bfloat16, CPU)
    steps, reads = {}, {}
    for size in rows:
        steps[size] = found = step(model, size, new)
        beside = found["step"] - found["matmuls"]
        print(
            f"batch {size}: a dense step {found['step']:.1f} ms, matmuls {found['matmuls']:.1f}, attention {found['attention']:.1f}, "
            f"beside matmuls {beside:.1f} ({beside / found['step']:.0%})",
            flush=True,
        )
    for context in contexts:
        for size in CONTEXT_ROWS:
            reads[f"{size} x {context}"] = one = attention(size, context)
            print(f"attention, {size} rows over {context}: {one['ms_a_layer']:.2f} ms a layer, {one['gb_per_second']:.1f} GB/s", flush=True)
    made = {**versions(), "device": device_name(CPU)}
    print(
        json.dumps(
            {"made_with": made, "read_gb_per_second": bandwidth(CPU)["read"] / 1e9, "shape": name, "steps": steps, "attention": reads}
        )
    )


if __name__ == "__main__":
    main()
