"""Adds the scores of a dense step to their accumulators (paper, eq. 2), in Triton.

For every token t, total[slot of t] += (z_t / ||z_t||_2)^2. One kernel sums squares, a second adds scores.
Neither uses atomic operations, so the same step gives the same bits. A program of the second kernel owns some
neurons of one slot and collects the tokens of that slot. If it owned the neurons of all slots, every token
would have to wait for the read and write of the previous token.

If a slot has several tokens on average, a program searches for its tokens and processes several at once
(`add_tokens`). In a decode step a slot has one token or none, and thousands of programs would wait for the
same search. So the search is done once per slot (`find`), and each program only reads and writes
(`add_one_by_one`).
"""

from __future__ import annotations

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

PART = 4096  # neurons of a token whose squares one program sums: two loads of 16 bytes per thread
# Limits of what a program of `add_tokens` loads at once: tokens, neurons, and elements (tokens times
# neurons).
MOST_TOKENS, MOST_NEURONS, NUMBERS = 16, 2048, 8192
MOST_SLOTS = 1024  # entries of `slot` that a search loads at once
SQUARE_WARPS, FIND_WARPS, ADD_WARPS = 8, 1, 4


def block(tokens: int, slots: int) -> tuple[int, int, int]:
    """Chooses the block sizes for a pass of `tokens` tokens over `slots` slots.

    Returns the entries of `slot` to search, the tokens to load and the neurons to load, each at once. The
    tokens are as many as a slot has on average, rounded up to a power of two, and at most MOST_TOKENS.
    """
    apiece = min(MOST_TOKENS, triton.next_power_of_2(triton.cdiv(tokens, slots)))
    return (
        min(MOST_SLOTS, max(16, triton.next_power_of_2(tokens))),
        apiece,
        min(MOST_NEURONS, NUMBERS // apiece),
    )


def observe_workspace(layers: int, tokens: int, neurons: int) -> tuple[int, int, int]:
    """Returns the shape of the float32 workspace `partial` of `observe`, for the sums of squares per part."""
    return layers, tokens, -(-neurons // PART)


@torch.library.custom_op("regrow::observe", mutates_args=("total", "partial", "span"))
def observe(z: Tensor, slot: Tensor, total: Tensor, partial: Tensor, span: Tensor) -> None:
    """Adds zbar^2 = (z / ||z||)^2 of every token of z [T, F] to row `slot` [T] int64 of total [S, F] float32.

    Norms are computed in float32 over all F neurons. A token whose slot is -1 does not count. A token whose
    norm is 0 or NaN adds nothing. With z [L, T, F] and total [L, S, F] all layers are added at once. Tokens
    of z and slots of total may have any stride, but neurons must be adjacent. `partial` has the shape that
    `observe_workspace` returns, and `span` is [S, 2] int32; their previous contents do not matter. Raises
    ValueError for other operands.
    """
    if z.stride(-1) != 1 or total.stride(-1) != 1:
        raise ValueError("the neurons of z and total have to be adjacent in memory")
    if not all(tensor.is_contiguous() for tensor in (slot, partial, span)):
        raise ValueError("slot, partial and span have to be contiguous")
    if span.shape != (total.shape[-2], 2) or span.dtype != torch.int32:
        raise ValueError(f"span is [{total.shape[-2]}, 2] int32, not {list(span.shape)} {span.dtype}")
    if z.dim() == 2:
        z, total = z[None], total[None]
    layers, tokens, neurons = z.shape
    parts = partial.shape[-1]
    if not tokens:
        return
    square[(tokens, parts, layers)](
        z, partial, z.stride(0), z.stride(1), neurons, PART, num_warps=SQUARE_WARPS
    )
    slots = total.shape[1]
    seen, apiece, width = block(tokens, slots)
    grid = triton.cdiv(neurons, width), slots, layers
    sizes = (
        tokens,
        z.stride(0),
        z.stride(1),
        total.stride(0),
        total.stride(1),
        neurons,
        parts,
        triton.next_power_of_2(parts),
    )
    if apiece > 1:
        add_tokens[grid](z, slot, partial, total, *sizes, seen, apiece, width, num_warps=ADD_WARPS)
    else:
        find[(slots,)](slot, span, tokens, seen, num_warps=FIND_WARPS)
        add_one_by_one[grid](z, slot, span, partial, total, *sizes, width, num_warps=ADD_WARPS)


@triton.jit  # type: ignore[untyped-decorator]
def square(
    z: tl.tensor, partial: tl.tensor, z_layer: int, z_token: int, F: tl.constexpr, PART: tl.constexpr,
) -> None:  # fmt: skip
    """Sums the squares of one part of a token."""
    token, part, layer = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2).to(tl.int64)
    neuron = part * PART + tl.arange(0, PART)
    value = tl.load(z + layer * z_layer + token * z_token + neuron, mask=neuron < F, other=0.0).to(tl.float32)
    place = (layer * tl.num_programs(0) + token) * tl.num_programs(1) + part
    tl.store(partial + place, tl.sum(value * value, axis=0))


@triton.jit(do_not_specialize=["tokens"])  # type: ignore[untyped-decorator]
def find(slot: tl.tensor, span: tl.tensor, tokens: int, SLOTS: tl.constexpr) -> None:
    """Writes the first token of a slot and its last plus one to `span`; the end is 0 if it has no token."""
    row = tl.program_id(0)
    start, end = tokens, 0
    for chunk in range(0, tokens, SLOTS):
        seen = chunk + tl.arange(0, SLOTS)
        here = tl.load(slot + seen, mask=seen < tokens, other=-1) == row
        start = tl.minimum(start, tl.min(tl.where(here, seen, tokens), axis=0))
        end = tl.maximum(end, tl.max(tl.where(here, seen + 1, 0), axis=0))
    tl.store(span + 2 * row, start)
    tl.store(span + 2 * row + 1, end)


@triton.jit(do_not_specialize=["tokens"])  # type: ignore[untyped-decorator]
def add_one_by_one(
    z: tl.tensor, slot: tl.tensor, span: tl.tensor, partial: tl.tensor, total: tl.tensor, tokens: int,
    z_layer: int, z_token: int, total_layer: int, total_slot: int,
    F: tl.constexpr, SUMS: tl.constexpr, PARTS: tl.constexpr, NEURONS: tl.constexpr,
) -> None:  # fmt: skip
    """Adds the tokens of a slot one after another, for steps in which most slots have one token or none."""
    neuron = tl.program_id(0) * NEURONS + tl.arange(0, NEURONS)
    inside = neuron < F
    row, layer = tl.program_id(1), tl.program_id(2).to(tl.int64)
    target = total + layer * total_layer + row.to(tl.int64) * total_slot + neuron
    start, end = tl.load(span + 2 * row), tl.load(span + 2 * row + 1)
    score = tl.load(target, mask=inside, other=0.0)  # loaded early, to overlap with the other loads
    part = tl.arange(0, PARTS)
    for token in range(start, end):
        if tl.load(slot + token) == row:
            squares = tl.load(partial + (layer * tokens + token) * SUMS + part, mask=part < SUMS, other=0.0)
            norm = tl.sqrt(tl.sum(squares, axis=0))
            counted = norm > 0
            inverse = 1.0 / tl.where(counted, norm, 1.0)
            place = z + layer * z_layer + tl.cast(token, tl.int64) * z_token
            value = tl.load(place + neuron, mask=inside, other=0.0).to(tl.float32)
            value = tl.where(counted, value * inverse, 0.0)
            score += value * value
    if end > 0:
        tl.store(target, score, mask=inside)


@triton.jit(do_not_specialize=["tokens"])  # type: ignore[untyped-decorator]
def add_tokens(
    z: tl.tensor, slot: tl.tensor, partial: tl.tensor, total: tl.tensor, tokens: int,
    z_layer: int, z_token: int, total_layer: int, total_slot: int,
    F: tl.constexpr, SUMS: tl.constexpr, PARTS: tl.constexpr, SLOTS: tl.constexpr, TOKENS: tl.constexpr,
    NEURONS: tl.constexpr,
) -> None:  # fmt: skip
    """Searches for the tokens of a slot, and adds TOKENS of them at a time."""
    neuron = tl.program_id(0) * NEURONS + tl.arange(0, NEURONS)
    inside = neuron < F
    row, layer = tl.program_id(1), tl.program_id(2).to(tl.int64)
    target = total + layer * total_layer + row.to(tl.int64) * total_slot + neuron
    score = tl.load(target, mask=inside, other=0.0)  # loaded early, to overlap with the other loads
    part = tl.arange(0, PARTS)
    found = 0
    for chunk in range(0, tokens, SLOTS):
        seen = chunk + tl.arange(0, SLOTS)
        here = tl.load(slot + seen, mask=seen < tokens, other=-1) == row
        last = tl.max(tl.where(here, seen, -1), axis=0)
        for first in range(tl.min(tl.where(here, seen, tokens), axis=0), last + 1, TOKENS):
            token = first + tl.arange(0, TOKENS)
            mine = tl.load(slot + token, mask=token <= last, other=-1) == row
            place = layer * tokens + token
            squares = tl.load(
                partial + place[:, None] * SUMS + part[None, :],
                mask=mine[:, None] & (part < SUMS)[None, :],
                other=0.0,
            )
            norm = tl.sqrt(tl.sum(squares, axis=1))
            counted = norm > 0
            inverse = 1.0 / tl.where(counted, norm, 1.0)
            value = tl.load(
                z + layer * z_layer + token.to(tl.int64)[:, None] * z_token + neuron[None, :],
                mask=mine[:, None] & inside[None, :],
                other=0.0,
            ).to(tl.float32)
            value = tl.where(counted[:, None], value * inverse[:, None], 0.0)
            score += tl.sum(value * value, axis=0)
        found = tl.maximum(found, last + 1)
    if found > 0:
        tl.store(target, score, mask=inside)
