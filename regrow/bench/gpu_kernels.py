"""Times single kernels on a GPU, and compares the rate at which they move bytes with that of a copy.

Calls rotate over several sets of operands, so that no call finds its operands in the cache. The selection is
an exception, because in a decode step its scores have just been written. Calls are captured in a CUDA graph,
so that the times contain no work of the host.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import partial
from typing import Any

import torch
from torch import Tensor

from regrow.bench.operands import dense_ffn, ffn_weights, normal
from regrow.bench.shapes import SHAPES, Shape
from regrow.core import Rows, Spec
from regrow.kernels import (
    Codes,
    attention_workspace,
    decode_attention,
    masked_linear,
    observe,
    packed,
    quantized_gather_ffn,
    sparse_ffn,
)
from regrow.selection.index_set import IndexSet
from regrow.selection.schedule import ALWAYS_SPARSE

DTYPE = torch.bfloat16
SHORT, LONG = 256, 16000  # tokens of context
CALLS, REPEATS = 20, 7
COLD = 150 * 2**20  # bytes, several times the cache of an H100
_Call = Callable[[], object]


def kernel_times(device: torch.device, bandwidth: float) -> Iterator[dict[str, Any]]:
    """Yields the time of each kernel at the sizes of the paper's two models, in bfloat16."""
    for shape in (SHAPES["qwen-7b"], SHAPES["llama-8b"]):
        for rows in (1, 4, 8, 16, 64):
            for name, calls, size in _kernels(shape, rows, device):
                seconds = _time(calls)
                share = size / seconds / bandwidth
                yield {
                    "shape": shape.name,
                    "kernel": name,
                    "rows": rows,
                    "us": 1e6 * seconds,
                    "bandwidth_share": share,
                }


def _kernels(shape: Shape, rows: int, device: torch.device) -> Iterator[tuple[str, list[_Call], int]]:
    """Yields the name of a kernel, calls on different operands, and the bytes that one call has to move."""
    yield from _linears(shape, rows, device)
    yield from _quantized(shape, rows, device)
    for context in (SHORT, LONG if rows <= 16 else LONG // 8):
        size = 4 * rows * shape.kv_heads * context * shape.head_width
        yield (
            f"decode attention over {context}",
            [_attention(shape, rows, context, device) for _ in range(_copies(size))],
            size,
        )
    slot, size = torch.arange(rows, device=device), 10 * rows * shape.neurons
    totals = torch.zeros(_copies(size), rows, shape.neurons, device=device)
    yield (
        "scores",
        [partial(observe, _normal(device, rows, shape.neurons), slot, total) for total in totals],
        size,
    )
    rule = IndexSet(Decimal("0.5"), ALWAYS_SPARSE)
    state = rule.init(Spec(shape.layers, shape.neurons, rows, device, torch.float32))
    state.memory.uniform_()
    state.known.fill_(True)
    everybody = torch.ones(rows, dtype=torch.bool, device=device)
    yield (
        "selection, all layers",
        [partial(rule.select, state, Rows(everybody, everybody, ~everybody))],
        4 * state.memory.numel(),
    )


def _linears(shape: Shape, rows: int, device: torch.device) -> Iterator[tuple[str, list[_Call], int]]:
    keep, size, x = shape.neurons // 2, 6 * shape.neurons * shape.width, _normal(device, rows, shape.width)
    kept = torch.rand(shape.width, device=device) > 0.5
    dense: list[_Call] = []
    sparse: list[_Call] = []
    masked: list[_Call] = []
    for _ in range(2):
        weights = ffn_weights(shape.width, shape.neurons, dtype=DTYPE, device=device)
        ffn = sparse_ffn(weights, keep, x.new_empty(keep, shape.width))
        ffn.load(torch.randperm(shape.neurons, device=device)[:keep].sort().values)
        dense.append(partial(dense_ffn, weights, x))
        sparse.append(partial(ffn, x))
        masked.append(partial(masked_linear(weights.gate, None), x, kept))
    yield "dense FFN (cuBLAS)", dense, size
    yield "sparse FFN", sparse, size // 2
    yield "masked linear", masked, size // 6


def _quantized(shape: Shape, rows: int, device: torch.device) -> Iterator[tuple[str, list[_Call], int]]:
    """The FFN in 4 bits with all neurons and with half of them, q, k and v in 4 bits, and the head in 8."""
    width, neurons, x = shape.width, shape.neurons, _normal(device, rows, shape.width)
    ffn = 3 * neurons * _row_bytes(width, 4)
    for name, keep in ("quantised FFN", None), ("quantised sparse FFN", neurons // 2):
        calls: list[_Call] = []
        for _ in range(_copies(ffn if keep is None else ffn // 2)):
            gate, up, down = (_codes(neurons, width, 4, device) for _ in range(3))
            made = quantized_gather_ffn(gate, up, down, "silu", [None] * 3, keep)
            if keep is not None:
                made.load(torch.randperm(neurons, device=device)[:keep].sort().values)
            calls.append(partial(made, x))
        yield name, calls, ffn if keep is None else ffn // 2
    heads = (shape.heads + 2 * shape.kv_heads) * shape.head_width
    for name, outputs, bits in ("quantised q, k, v", heads, 4), ("quantised head", shape.vocabulary, 8):
        size = outputs * _row_bytes(width, bits)
        weights = [packed(_codes(outputs, width, bits, device), DTYPE) for _ in range(_copies(size))]
        yield name, [partial(weight, x) for weight in weights], size


def _row_bytes(inputs: int, bits: int) -> int:
    """Bytes of a row of codes, with scales and offsets."""
    return -(-inputs // 128) * (16 * bits + 4)


def _codes(outputs: int, inputs: int, bits: int, device: torch.device) -> Codes:
    """Random codes: rounding random weights would take longer than to measure them."""
    codes = torch.randint(2**bits, (outputs, inputs), dtype=torch.uint8, device=device)
    scale = torch.full((outputs, -(-inputs // 128)), 2.0**-bits / 16, device=device)
    return Codes(codes, scale, scale * -(2.0 ** (bits - 1)), bits, 128, 0.0)


def _copies(size: int) -> int:
    """Number of operands of `size` bytes that together fit no cache."""
    return -(-COLD // size)


def _attention(shape: Shape, rows: int, context: int, device: torch.device) -> _Call:
    heads = (rows, 1, shape.heads, shape.head_width)
    query, out = _normal(device, *heads), _normal(device, *heads)
    keys, values = (_normal(device, rows, shape.kv_heads, context, shape.head_width) for _ in range(2))
    workspace = attention_workspace(query, shape.kv_heads, context)
    start = torch.zeros(rows, dtype=torch.int64, device=device)
    return partial(
        decode_attention,
        query,
        keys,
        values,
        start,
        start + context - 1,
        shape.head_width**-0.5,
        out,
        workspace,
    )


def _normal(device: torch.device, *sizes: int) -> Tensor:
    return normal(*sizes, dtype=DTYPE, device=device)


def _time(calls: list[_Call]) -> float:
    """Median seconds of one call."""
    for call in calls:  # kernels must be compiled before they are captured
        call()
    torch.cuda.synchronize()
    graph, count = torch.cuda.CUDAGraph(), max(CALLS, len(calls))
    with torch.cuda.graph(graph):
        for number in range(count):
            calls[number % len(calls)]()
    times = []
    for _ in range(REPEATS):
        event: Any = torch.cuda.Event
        before, after = (event(enable_timing=True) for _ in range(2))
        before.record()
        graph.replay()
        after.record()
        torch.cuda.synchronize()
        times.append(before.elapsed_time(after) / 1e3 / count)
    return float(statistics.median(times[1:]))
