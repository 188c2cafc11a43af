"""Weights of 4 and 8 bits: rounding, and the matmuls of the CPU kernels over them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import gelu, linear, silu

from kernels.compiled_here import COMPILED
from regrow.core import FFNWeights
from regrow.kernels import Codes, QuantizedFFN, QuantizedLinear, multiplies_codes, packed
from regrow.kernels.quantized.cpu import Packed
from regrow.kernels.quantized.linear import Expanded

# Rounding a result to bfloat16 changes it by at most 2^-8 of its size. Sums in float32 lose far less.
UNIT = 2.0**-8
# An input in the middle between two steps may be rounded to either, which matters in float32 alone.
TOLERANCE = {torch.bfloat16: UNIT, torch.float32: 2e-3}
INPUTS = 0.02  # half a step is 0.4 % of the largest input of a group, which few inputs come near to
PACKED = pytest.mark.skipif(
    not multiplies_codes(torch.device("cpu"), torch.bfloat16), reason="this CPU has no AVX-512 VNNI"
)


def normal(*sizes: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(sizes, generator=torch.Generator().manual_seed(seed)).to(dtype)


def rounded(x: Tensor, group: int = 128) -> Tensor:
    """Round the inputs of each group to 127 steps on both sides of zero, as the kernels do."""
    found = x.double().clone()
    for part in found.split(group, dim=-1):
        step = part.abs().amax(dim=-1, keepdim=True) / 127
        part.copy_(torch.where(step > 0, (part / step).round() * step, 0))
    return found


def difference(ours: Tensor, want: Tensor) -> float:
    return float((ours.double() - want.double()).norm() / want.double().norm().clamp(min=1e-30))


@given(
    outputs=st.integers(1, 5),
    inputs=st.integers(1, 40),
    group=st.sampled_from([8, 16, 128]),
    bits=st.sampled_from([4, 8]),
    scale=st.sampled_from([1e-3, 1.0, 50.0]),
    seed=st.integers(0, 99),
)
@settings(max_examples=100)
def test_codes_are_the_nearest_ones(
    outputs: int, inputs: int, group: int, bits: int, scale: float, seed: int
) -> None:
    """Every weight within the range of its group differs by at most half a step, and others get an end."""
    weight = scale * normal(outputs, inputs, seed=seed)
    codes = Codes.of(weight, bits, group)
    assert codes.codes.dtype == torch.uint8
    assert codes.codes.shape == weight.shape
    assert int(codes.codes.max()) < 2**bits
    step, low = (
        kind.repeat_interleave(group, dim=1)[:, :inputs].double() for kind in (codes.scale, codes.offset)
    )
    high = low + (2**bits - 1) * step
    rounded = codes.expanded(torch.float64)
    clamped = weight.double().clamp(low, high)
    assert ((rounded - clamped).abs() <= 0.5001 * step + 1e-6 * scale).all()
    assert codes.lost == pytest.approx(float((rounded - weight.double()).square().sum()), rel=1e-3, abs=1e-9)


@COMPILED
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bits", [4, 8])
def test_compiled_rounding_is_the_plain_one(dtype: torch.dtype, bits: int) -> None:
    """A weight in the middle between two codes may get either, because the two compute in another order."""
    weight = normal(37, 300, seed=1, dtype=dtype)
    ours, plain = Codes.of(weight, bits, 64), Codes._plain(weight, bits, 64)
    assert torch.equal(ours.scale, plain.scale)
    assert torch.equal(ours.offset, plain.offset)
    assert int((ours.codes.int() - plain.codes.int()).abs().max()) <= 1
    assert ((ours.codes != plain.codes).double().mean()) < 0.01
    assert ours.lost == pytest.approx(plain.lost, rel=1e-5)


def test_a_narrower_range_is_taken_where_it_loses_less() -> None:
    """One large weight among small ones, with codes that are too coarse for the small ones."""
    weight = torch.linspace(-1, 1, 127).repeat(2, 1)
    weight = torch.cat([weight, torch.tensor([[1.15], [1.0]])], dim=1)
    codes = Codes.of(weight)
    highest = codes.offset + 15 * codes.scale
    assert float(highest[0]) < 1.12
    whole = (2.15 / 15) ** 2 / 12 * 128  # what the whole range would lose, for weights spread evenly
    assert codes.lost / 2 < 1.01 * whole


@pytest.mark.parametrize("bits", [4, 8])
def test_joined_codes_are_those_of_the_joint_weight(bits: int) -> None:
    """Rows are rounded by themselves."""
    parts = [normal(outputs, 40, seed=outputs) for outputs in (3, 1, 5)]
    ours, want = (
        Codes.joined([Codes.of(part, bits, 16) for part in parts]),
        Codes.of(torch.cat(parts), bits, 16),
    )
    for name in ("codes", "scale", "offset"):
        assert torch.equal(getattr(ours, name), getattr(want, name))
    assert (ours.bits, ours.group) == (bits, 16)
    assert ours.lost == pytest.approx(want.lost)


def test_equal_weights_and_zeros_are_exact() -> None:
    weight = torch.tensor([[0.0] * 9, [0.5] * 9])
    assert torch.equal(Codes.of(weight).expanded(torch.float32), weight)


@PACKED
@given(
    rows=st.integers(1, 64),
    tiles=st.integers(1, 3),
    blocks=st.integers(1, 40),
    group=st.sampled_from([8, 64, 128]),
    bits=st.sampled_from([4, 8]),
    biased=st.booleans(),
    dtype=st.sampled_from(sorted(TOLERANCE, key=str)),
)
@settings(max_examples=60, deadline=None)
def test_matmuls_are_those_of_the_rounded_weight_and_inputs(
    rows: int, tiles: int, blocks: int, group: int, bits: int, biased: bool, dtype: torch.dtype
) -> None:
    weight = normal(64 * tiles, 8 * blocks, seed=1, dtype=dtype)
    x = normal(rows, 8 * blocks, seed=2, dtype=dtype)
    bias = normal(64 * tiles, seed=3, dtype=dtype) if biased else None
    codes = Codes.of(weight, bits, group)
    assert Packed.fits(codes, dtype)
    y = Packed(codes)(x, bias)
    wide = None if bias is None else bias.double()
    want = linear(rounded(x, group), codes.expanded(torch.float64), wide)
    assert difference(y, want) < TOLERANCE[dtype]
    exact = linear(x.double(), codes.expanded(torch.float64), wide)
    assert difference(y, exact) < TOLERANCE[dtype] + INPUTS
    assert torch.equal(y, torch.cat([Packed(codes)(row[None], bias) for row in x]))


@PACKED
@pytest.mark.parametrize("rows", [1, 3, 7, 64])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("act", [silu, gelu])
def test_an_ffn_is_that_of_the_rounded_weights(
    rows: int, biased: bool, act: Callable[[Tensor], Tensor]
) -> None:
    gate, up, down = (
        0.2 * normal(*size, seed=seed, dtype=torch.bfloat16)
        for seed, size in enumerate([(192, 128), (192, 128), (128, 192)])
    )
    biases = [normal(size, seed=9, dtype=torch.bfloat16) if biased else None for size in (192, 192, 128)]
    ffn = QuantizedFFN(FFNWeights(gate, up, down, act, *biases), Codes.of)
    x = normal(rows, 128, seed=5, dtype=torch.bfloat16)
    gate, up, down = (Codes.of(weight).expanded(torch.float64) for weight in (gate, up, down))
    wide = [None if bias is None else bias.double() for bias in biases]
    hidden = act(linear(rounded(x), gate, wide[0])) * linear(rounded(x), up, wide[1])
    # Gate, its activation, up, hidden and the result are rounded to bfloat16. A difference in the last bit of
    # hidden can make a whole step of its 8 bits.
    assert difference(ffn(x), linear(rounded(hidden), down, wide[2])) < 2 * UNIT + INPUTS
    assert ffn.state_bytes < 0.3 * 2 * 3 * 192 * 128


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("size", [(64, 64), (33, 20), (64, 12), (1, 1)])
def test_any_size_and_dtype_is_multiplied(dtype: torch.dtype, size: tuple[int, int]) -> None:
    weight, x = normal(*size, seed=1, dtype=dtype), normal(2, 3, size[1], seed=2, dtype=dtype)
    codes = Codes.of(weight)
    made = packed(codes, dtype)
    assert isinstance(made, Packed) == Packed.fits(codes, dtype)
    assert isinstance(made, Packed | Expanded)
    y = QuantizedLinear(made, None)(x)
    assert y.shape == (2, 3, size[0])
    assert difference(y, linear(x.double(), codes.expanded(torch.float64))) < UNIT + INPUTS


@PACKED
def test_infinite_inputs_reach_the_outputs_of_their_row_alone() -> None:
    x = normal(4, 64, seed=1, dtype=torch.bfloat16)
    x[1, 3], x[2, 5], x[3, 17] = torch.inf, -torch.inf, torch.nan
    y = Packed(Codes.of(normal(64, 64, seed=2, dtype=torch.bfloat16)))(x)
    assert y[0].isfinite().all()
    assert not y[1:].isfinite().any()
