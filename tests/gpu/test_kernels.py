"""Kernels against their references: with `make gpu` on a GPU, otherwise in Triton's interpreter."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import silu

from gpu.errors import expect_within, relative
from gpu.sizes import DEVICE, SIZES
from regrow.core import FFNWeights
from regrow.kernels import masked_linear
from regrow.kernels.attention import reference as attention_reference
from regrow.kernels.attention.triton import attention_workspace, decode_attention
from regrow.kernels.pruned_ffn import reference as ffn_reference
from regrow.kernels.pruned_ffn.gather import GatherFFN
from regrow.kernels.pruned_linear import reference as linear_reference
from regrow.kernels.pruned_linear import threshold as threshold_reference
from regrow.kernels.pruned_linear.triton import gather_exceeding, gather_workspace
from regrow.kernels.scores import reference as scores_reference
from regrow.kernels.scores.triton import observe, observe_workspace
from regrow.kernels.split_sums import blocks

HEAD_WIDTH = 128


def random(dtype: torch.dtype, *shape: int, scale: float = 1.0) -> Tensor:
    return torch.randn(shape, device=DEVICE).mul_(scale).to(dtype)


def test_sparse_ffn_through_an_index() -> None:
    """The hidden activations are rounded to the dtype; the reference computes in float32 throughout."""
    width, neurons, keep, found = SIZES.width, SIZES.neurons, SIZES.keep, []
    for dtype in SIZES.halves:
        gate, up = (random(dtype, neurons, width, scale=width**-0.5) for _ in range(2))
        weights = FFNWeights(gate, up, random(dtype, width, neurons, scale=neurons**-0.5), silu)
        wide = FFNWeights(weights.gate.float(), weights.up.float(), weights.down.float(), silu)
        index = torch.randperm(neurons, device=DEVICE)[:keep].sort().values
        ffn = GatherFFN(weights, "silu", keep)
        ffn.load(index)
        for rows in (1, 2, 7, 16, 33, 64, 100):
            x = random(dtype, rows, width)
            ours = ffn(x)
            found.append((dtype, relative(ours, ffn_reference.sparse_ffn(wide, index, x.float()))))
            assert torch.equal(ours, ffn(x)), f"two runs with {rows} rows differ"
    expect_within(found, 4)


def test_masked_linear() -> None:
    width, neurons, found = SIZES.width, SIZES.neurons, []
    for dtype in SIZES.halves:
        weight, bias = random(dtype, neurons, width, scale=width**-0.5), random(dtype, neurons)
        keep = torch.rand(width, device=DEVICE) > 0.5
        ours = masked_linear(weight, bias)
        for rows in (1, 3, 16, 64):
            x = random(dtype, rows, width)
            theirs = linear_reference.masked_linear(x.float(), weight.t().float(), keep, bias.float())
            found.append((dtype, relative(y := ours(x, keep), theirs)))
            assert torch.equal(y, ours(x, keep)), f"two runs with {rows} rows differ"
    expect_within(found, 2)


def test_scores() -> None:
    """The kernel adds up to a thousand terms in another order than the reference."""
    neurons, found = SIZES.neurons, []
    for dtype in SIZES.halves:
        for tokens in SIZES.tokens:
            z, slot = random(dtype, tokens, neurons), torch.randint(-1, 4, (tokens,), device=DEVICE)
            ours, again, theirs = torch.zeros(3, 4, neurons, device=DEVICE)
            scores_reference.observe(z, slot, theirs)
            for total in (ours, again):
                partial = torch.full(observe_workspace(1, tokens, neurons), torch.nan, device=DEVICE)
                observe(
                    z, slot, total, partial, torch.full((4, 2), -(2**31), dtype=torch.int32, device=DEVICE)
                )
            assert torch.equal(ours, again), f"two runs with {tokens} tokens differ"
            found.append((torch.float32, relative(ours, theirs) if bool(theirs.any()) else 0.0))
    expect_within(found, 64)


def test_inputs_above_a_threshold() -> None:
    """Kernel and reference keep the same inputs, except for those within 1e-5 of the threshold.

    One workspace serves launch after launch, without a synchronisation between them.
    """
    neurons, odd, threshold = SIZES.neurons, 0, 0.8
    room, counts = (
        blocks(neurons, 16) * 16,
        torch.zeros(gather_workspace(neurons), dtype=torch.int32, device=DEVICE),
    )
    for dtype in SIZES.halves:
        for tokens in (1, 4, 64, 200):
            x, slot = random(dtype, tokens, neurons), torch.randint(-1, 4, (tokens,), device=DEVICE)
            norms = torch.rand(neurons, device=DEVICE) + 0.5
            score = threshold_reference.magnitude(x, slot, abs_mean=False) * norms
            measured = torch.zeros(2, dtype=torch.int64, device=DEVICE)
            index, count = counts.new_full((room,), -1), counts.new_full((1,), -1)
            kept = torch.full((tokens, room), torch.nan, dtype=dtype, device=DEVICE)
            again = [one.clone() for one in (kept, index, count)]
            rule = x, slot, norms, threshold, False, 7, measured[1]
            gather_exceeding(*rule, kept, index, count, counts)
            for _ in range(SIZES.launches):
                gather_exceeding(*rule, *again, counts)
            chosen = int(count)
            mask = torch.zeros_like(score, dtype=torch.bool)
            mask[index[:chosen].long()] = True
            odd += int(((mask != (score > threshold)) & ((score - threshold).abs() > 1e-5)).sum())
            assert torch.equal(index[:chosen], mask.nonzero().flatten().int()), "the index is not ascending"
            assert torch.equal(kept[:, :chosen], x[:, mask]), "other inputs are gathered"
            for one, other in zip((kept, index, count), again, strict=True):
                assert torch.equal(one.nan_to_num(), other.nan_to_num()), "two launches differ"
            counted = measured.tolist()
            assert counted == [0, (1 + SIZES.launches) * 7 * chosen], (
                f"{counted} weights counted for {chosen} inputs"
            )
    print(f"{odd} inputs differ")
    assert not odd, "other inputs are kept"


def test_decode_attention() -> None:
    found = []
    for dtype in SIZES.halves:
        for rows, width, heads, kv_heads, capacity in SIZES.attention:
            q = random(dtype, rows, width, heads, HEAD_WIDTH)
            keys, values = (random(dtype, rows, kv_heads, capacity, HEAD_WIDTH) for _ in range(2))
            length = torch.randint(0, capacity - width, (rows,), device=DEVICE)
            start = torch.zeros_like(length)
            out = torch.full_like(q, torch.nan)
            shapes = attention_workspace(rows, width, heads, kv_heads, HEAD_WIDTH, capacity)
            workspaces = [torch.full(shape, torch.nan, device=DEVICE) for shape in shapes]
            decode_attention(q, keys, values, start, length, HEAD_WIDTH**-0.5, out, *workspaces)
            theirs = torch.empty_like(q, dtype=torch.float32)
            attention_reference.decode_attention(
                q.float(), keys.float(), values.float(), start, length, HEAD_WIDTH**-0.5, theirs
            )
            found.append((dtype, relative(out, theirs)))
    expect_within(found, 4)
