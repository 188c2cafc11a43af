"""The storage of rounded weights for the GPU, and the instructions that unpack it."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from kernels.quantized_operands import rounded
from regrow.kernels.quantized import unpack
from regrow.kernels.quantized.codes import Codes
from regrow.kernels.quantized.packed import PackedWeight


def expanded(weight: PackedWeight) -> Tensor:
    """Reads a packed weight as the documentation describes it, byte by byte."""
    _, inputs = weight.shape
    bytes_apiece = 64 if weight.bits == 4 else 128
    rows = []
    for row, words in zip(weight.codes.tolist(), weight.factors.tolist(), strict=True):
        values: list[float] = []
        for group, word in enumerate(words):
            some = row[group * bytes_apiece : (group + 1) * bytes_apiece]
            codes = [*(b % 16 for b in some), *(b // 16 for b in some)] if weight.bits == 4 else some
            halves = torch.tensor([word % 2**16 * 2**16, word // 2**16 * 2**16]).int().view(torch.float32)
            scale, offset = halves.tolist()
            values += [scale * code + offset for code in codes]
        rows.append(values[:inputs])
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("inputs", [1, 64, 127, 128, 300])
def test_holds_the_codes(inputs: int, bits: int) -> None:
    codes = rounded(0, 3, inputs, bits)
    weight = PackedWeight.of(codes)
    assert weight.shape == (3, inputs)
    assert torch.equal(expanded(weight), codes.expanded(torch.float64))
    assert weight.nbytes == 3 * -(-inputs // 128) * (16 * bits + 4)


def test_the_unit_brings_the_largest_scale_below_one() -> None:
    for scale in (1e-30, 0.003, 1.0, 7.0, 1e30):
        weight = rounded(0, 3, 200, scale=scale)
        assert 0.5 <= float(weight.scale.max()) * PackedWeight.of(weight).unit < 1


@pytest.mark.parametrize("value", [0.0, float("inf"), float("nan")])
def test_the_unit_of_scales_that_have_no_size_is_one(value: float) -> None:
    weight = rounded(0, 3, 200)
    weight.scale[:] = value
    assert PackedWeight.of(weight).unit == 1


def test_refuses_other_codes() -> None:
    for codes in (Codes.of(torch.ones(2, 96), group=32), Codes.of(torch.ones(2, 96), bits=5)):
        with pytest.raises(ValueError, match="groups of 128 with 4 or 8 bits"):
            PackedWeight.of(codes)


# The kernels unpack with instructions that Triton's interpreter cannot run.

KINDS = {"bf16": torch.bfloat16, "f16": torch.float16}


def run(ptx: str, word: int) -> Tensor:
    """Runs PTX on one 32-bit input, and returns the numbers in its two outputs."""
    held = {"$2": word}
    kind = torch.bfloat16

    def value(name: str) -> int:
        return held[name] if name in held else int(name, 0)

    def halves(name: str) -> Tensor:
        return torch.tensor([value(name) % 2**16, value(name) >> 16]).to(torch.uint16).view(kind)

    for operation, into, given in re.findall(r"^\s*([a-z][\w.]+) (\S+), (.*);", ptx, re.MULTILINE):
        names = given.split(", ")
        match operation.split("."):
            case "mov", "b32":
                held[into] = value(names[0])
            case "shr", "u32":
                held[into] = value(names[0]) >> value(names[1])
            case "and", "b32":
                held[into] = value(names[0]) & value(names[1])
            case "prmt", "b32":
                source = (value(names[0]) | value(names[1]) << 32).to_bytes(8, "little")
                picked = [source[value(names[2]) >> 4 * place & 7] for place in range(4)]
                held[into] = int.from_bytes(bytes(picked), "little")
            case "fma", "rn", packed:
                kind = KINDS[packed.removesuffix("x2")]
                one, other, third = (halves(name).float() for name in names)
                bits = (one * other + third).to(kind).view(torch.uint16).tolist()
                held[into] = bits[0] | bits[1] << 16
            case _:
                raise AssertionError(operation)
    return torch.cat([halves("$0"), halves("$1")]).float()


@pytest.mark.parametrize("high", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_instructions_unpack_every_byte(kind: str, high: bool) -> None:
    programs = {
        ("bf16", False): unpack.LOW_BF16,
        ("bf16", True): unpack.HIGH_BF16,
        ("f16", False): unpack.LOW_FP16,
        ("f16", True): unpack.HIGH_FP16,
    }
    for first in range(0, 256, 4):
        some = [first, first + 1, first + 2, first + 3]
        found = run(programs[kind, high].value, int.from_bytes(bytes(some), "little"))
        assert found.tolist() == [byte // 16 if high else byte % 16 for byte in some]
