"""Times the parts of a decode step on a CPU: `python -m regrow.bench.step_parts`. The last line is JSON.

First come dense steps of a shape in Regrow's own loop. The recorded steps are replayed with a clock around
each kernel. The kernel that computes gate and up in one pass counts as a matmul. Then attention is timed
alone, over longer contexts, with the rate at which it reads the KV cache.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor

from regrow import kernels
from regrow.bench.clock import Clock
from regrow.bench.machine import bandwidth, device_name
from regrow.bench.shapes import shape
from regrow.decoding import choose_network
from regrow.errors import RegrowError
from regrow.hosts.engine import Engine
from regrow.kernels import Replay, attention_workspace, decode_attention
from regrow.versions import versions

SHAPE: Final = "qwen-1.5b"
ROWS, STEPS = (1, 16), 24
CONTEXTS, CONTEXT_ROWS = (4000, 16000), (1, 8)
HEADS, KV_HEADS, HEAD_WIDTH, REPEATS = 12, 2, 128, 5  # the first three are those of SHAPE
# Names of the kernels that make up each part.
PARTS: Final = {"matmuls": ("few_rows", "gated_rows"), "attention": ("decode_attention",)}
CPU: Final = torch.device("cpu")


def step(model: Any, rows: int, new: int) -> dict[str, float]:
    """Returns the milliseconds of a dense step, and those of its matmuls and of its attention.

    Raises RegrowError if steps cannot be recorded, because they run more than Regrow's kernels.
    """
    ids = torch.randint(100, (rows, 2))
    options: dict[str, Any] = {"do_sample": False, "pad_token_id": 0}
    with recordings() as recorded, Engine(model, owns_model=True) as engine:
        engine.generate(ids, max_new_tokens=4, **options)
        if not recorded:
            raise RegrowError(
                "decode steps on this CPU run more than Regrow's kernels, so their parts cannot be timed"
            )
        for replay in recorded:
            replay.clock()
        report = engine.generate(ids, max_new_tokens=new, **options).report
    spent = {"step": report.decode_seconds}
    for part, names in PARTS.items():
        spent[part] = sum(replay.seconds().get(name, 0.0) for replay in recorded for name in names)
    return {part: 1e3 * seconds / report.decode_steps for part, seconds in spent.items()}


@contextmanager
def recordings() -> Iterator[list[Replay]]:
    """Yields a list that receives every recording made inside the context."""
    made: list[Replay] = []

    def record(step: Callable[[], Tensor]) -> tuple[Replay, Tensor] | None:
        found = kernels.record(step)
        made.extend([] if found is None else [found[0]])
        return found

    place = vars(choose_network)  # the namespace in which networks look up `record`
    before, place["record"] = place["record"], record
    try:
        yield made
    finally:
        place["record"] = before


def attention(rows: int, context: int, layers: int = 4) -> dict[str, float]:
    """Times the decode attention of one layer over `context` tokens, with one query token a row.

    Returns the milliseconds, and the gigabytes that it reads a second.
    """
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


def main(
    rows: Sequence[int] = ROWS, contexts: Sequence[int] = CONTEXTS, new: int = STEPS, name: str = SHAPE
) -> None:
    """Times steps at each batch size and attention over each context, and prints the results."""
    torch.manual_seed(0)
    model = shape(name).build(torch.bfloat16, CPU)
    steps, reads = {}, {}
    for size in rows:
        steps[size] = found = step(model, size, new)
        beside = found["step"] - found["matmuls"]
        print(
            f"batch {size}: a dense step {found['step']:.1f} ms, "
            f"matmuls {found['matmuls']:.1f}, attention {found['attention']:.1f}, "
            f"beside matmuls {beside:.1f} ({beside / found['step']:.0%})",
            flush=True,
        )
    for context in contexts:
        for size in CONTEXT_ROWS:
            reads[f"{size} x {context}"] = one = attention(size, context)
            print(
                f"attention, {size} rows over {context}: "
                f"{one['ms_a_layer']:.2f} ms a layer, {one['gb_per_second']:.1f} GB/s",
                flush=True,
            )
    made = {**versions(), "device": device_name(CPU)}
    print(
        json.dumps(
            {
                "made_with": made,
                "read_gb_per_second": bandwidth(CPU)["read"] / 1e9,
                "shape": name,
                "steps": steps,
                "attention": reads,
            }
        )
    )


if __name__ == "__main__":
    try:
        main()
    except RegrowError as error:
        raise SystemExit(f"regrow: {error}") from error
