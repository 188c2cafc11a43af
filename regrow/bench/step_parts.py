"""What a decode step on a CPU spends beside its weights: `python -m regrow.bench.step_parts`. The last line printed is JSON.

The dense steps of a shape through Regrow's loop, with a clock around our matmuls and attention, and the profiler for torch's, which
adds some microseconds to each of its operations. Gate and up in one pass count as a matmul. Then attention alone, over longer contexts,
with the bytes that it reads.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final, final

import torch
from torch.profiler import ProfilerActivity, profile

from regrow.bench.clock import Clock
from regrow.bench.machine import bandwidth, device_name
from regrow.bench.shapes import shape
from regrow.decoding import stepper
from regrow.hosts.engine import Engine
from regrow.kernels import LaidOutGate, LaidOutWeight, attention_workspace, decode_attention
from regrow.versions import versions

SHAPE: Final = "qwen-1.5b"
ROWS, STEPS = (1, 16), 24
CONTEXTS, CONTEXT_ROWS = (4000, 16000), (1, 8)
HEADS, KV_HEADS, HEAD_WIDTH, REPEATS = 12, 2, 128, 5  # of the shape
# What a clock is put around, and operations of torch that the profiler counts.
MATMULS: Final = ((LaidOutWeight, "__call__"), (LaidOutGate, "__call__")), ("aten::mm", "aten::addmm")
ATTENTION: Final = ((stepper, "decode_attention"),), ("aten::_scaled_dot_product_flash_attention_for_cpu",)
CPU: Final = torch.device("cpu")


def step(model: Any, rows: int, new: int) -> dict[str, float]:
    """Milliseconds of a dense step, and in it of matmuls and of attention."""
    ids = torch.randint(100, (rows, 1))  # so that the prompt is a pass like the steps
    how: dict[str, Any] = {"do_sample": False, "pad_token_id": 0}
    with Engine(model, owns_model=True) as engine:
        engine.generate(ids, max_new_tokens=4, **how)
        parts = {"matmuls": (Stopwatch(), *MATMULS), "attention": (Stopwatch(), *ATTENTION)}
        with ExitStack() as stack:
            for clock, functions, _ in parts.values():
                stack.enter_context(clock.around(functions))
            profiled = stack.enter_context(profile(activities=[ProfilerActivity.CPU]))
            report = engine.generate(ids, max_new_tokens=new, **how).report
    counted = {event.key: event.self_cpu_time_total / 1e6 for event in profiled.key_averages()}
    spent = {name: clock.seconds + sum(counted.get(one, 0) for one in operations) for name, (clock, _, operations) in parts.items()}
    found = {name: 1e3 * seconds / (report.decode_steps + 1) for name, seconds in spent.items()}
    return {"step": 1e3 * report.decode_seconds / report.decode_steps, **found}


@final
class Stopwatch:
    """Runs while one of the functions that it stands around does; one that another of them calls is counted once."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._depth = 0

    @contextmanager
    def around(self, functions: Sequence[tuple[Any, str]]) -> Iterator[None]:
        """Functions of classes and modules, by name."""
        before = [getattr(of, name) for of, name in functions]
        for (of, name), function in zip(functions, before, strict=True):
            setattr(of, name, self._timed(function))
        try:
            yield
        finally:
            for (of, name), function in zip(functions, before, strict=True):
                setattr(of, name, function)

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            began, self._depth = time.perf_counter(), self._depth + 1
            try:
                return function(*arguments, **options)
            finally:
                self._depth -= 1
                if not self._depth:
                    self.seconds += time.perf_counter() - began

        return timed


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
