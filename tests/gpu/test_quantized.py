"""Kernels over rounded weights against their reference: on a GPU, otherwise in Triton's interpreter."""

from __future__ import annotations

import torch
from torch.nn.functional import silu

from gpu.errors import expect_within, relative
from gpu.sizes import DEVICE, INTERPRETED, SIZES
from gpu.test_kernels import random
from regrow.kernels.quantized import reference
from regrow.kernels.quantized.codes import Codes
from regrow.kernels.quantized.gather import PackedFFN, QuantizedGatherFFN
from regrow.kernels.quantized.packed_linear import PackedLinear


def codes(outputs: int, inputs: int, bits: int = 4) -> Codes:
    return Codes.of(random(torch.float32, outputs, inputs, scale=inputs**-0.5), bits)


def test_quantised_linear() -> None:
    """The widest weight makes programs of 32 outputs, and the narrowest of 16."""
    width, found = SIZES.width, []
    for outputs in (SIZES.neurons, width // 2 + 3):
        for bits in (4, 8):
            weight = codes(outputs, width, bits)
            ours = PackedLinear(weight)
            for dtype in SIZES.halves:
                bias = random(dtype, outputs)
                for rows in SIZES.rounded:
                    x = random(dtype, rows, width)
                    theirs = reference.quantized_linear(x.float(), weight, bias.float())
                    found.append((dtype, relative(y := ours(x, bias), theirs)))
                    assert torch.equal(y, ours(x, bias)), f"two runs with {rows} rows differ"
    expect_within(found, 2)


def test_quantised_ffn_with_all_neurons_and_through_an_index() -> None:
    """The hidden activations are rounded to the dtype, and so are their products with the scales of down."""
    width, neurons, found = SIZES.width, SIZES.neurons, []
    gate, up, down = (codes(neurons, width) for _ in range(3))
    weights = PackedFFN.of(gate, up, down, "silu")
    for keep in (None, SIZES.keep):
        ffn, index = QuantizedGatherFFN(weights, keep), None
        if keep is not None:
            index = torch.randperm(neurons, device=DEVICE)[:keep].sort().values
            ffn.load(index)
        for dtype in SIZES.halves:
            for rows in SIZES.rounded:
                x = random(dtype, rows, width)
                theirs = reference.quantized_ffn(x.float(), gate, up, down, silu, index)
                found.append((dtype, relative(ours := ffn(x), theirs)))
                assert torch.equal(ours, ffn(x)), f"two runs with {rows} rows differ"
        if keep is not None and not INTERPRETED:
            expect_latest_index(ffn, keep)
    expect_within(found, 4)


def expect_latest_index(ffn: QuantizedGatherFFN, keep: int) -> None:
    """Captures the FFN in a CUDA graph, and asserts that replays use the index of the time."""
    x = random(torch.bfloat16, 4, SIZES.width)
    ffn(x)  # kernels must be compiled before they are captured
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = ffn(x)
    for _ in range(2):
        ffn.load(torch.randperm(SIZES.neurons, device=DEVICE)[:keep].sort().values)
        graph.replay()
        assert torch.equal(captured, ffn(x)), "the captured step used another index"
