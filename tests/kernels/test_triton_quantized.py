"""Linear layers over rounded weights, in Triton's interpreter, against their definition in float64."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear

from kernels.custom_ops import check_custom_op
from kernels.operands import framed, poisoned, random, shuffled, within
from kernels.quantized_operands import chosen, error_of, magnitudes, rounded
from kernels.test_sparse_ffn import ACTS
from kernels.test_triton_gather import ACT_SLOPE
from regrow.kernels.pruned_ffn.triton import ACTIVATIONS
from regrow.kernels.quantized import reference
from regrow.kernels.quantized.codes import Codes
from regrow.kernels.quantized.packed import PackedWeight
from regrow.kernels.quantized.packed_linear import PackedLinear
from regrow.kernels.quantized.triton import (
    SHARED,
    Block,
    block,
    launch_rows,
    quantized_gated,
    quantized_linear,
)

ROWS = 1, 2, 7, 8, 9, 16, 17, 64
# The interpreter's bfloat16 matmul is wrong. All kernels are compiled for bfloat16 ahead of time.
DTYPES = torch.float32, torch.float16
case = pytest.mark.parametrize(
    ("rows", "dtype"),
    [(rows, dtype) for rows in ROWS for dtype in DTYPES],
    ids=lambda value: str(value).removeprefix("torch."),
)


def run(x: Tensor, weight: Codes, bias: Tensor | None = None, sizes: Block | None = None) -> Tensor:
    packed, out = PackedWeight.of(weight), framed(poisoned(len(x), len(weight.codes), dtype=x.dtype))
    weights = [(packed.codes, packed.factors, bias)]
    launch_rows("quantized_linear", x, weights, None, packed.bits, "", out.inner, sizes)
    assert out.frame_is_untouched()
    return out.inner


def close(y: Tensor, x: Tensor, weight: Codes, bias: Tensor | None) -> None:
    x, bias = x.double(), None if bias is None else bias.double()
    terms = linear(x.abs(), magnitudes(weight), None if bias is None else bias.abs())
    within(y, reference.quantized_linear(x, weight, bias), error_of(terms, x.shape[1]))


@case
@pytest.mark.parametrize("bits", [4, 8])
def test_equals_the_reference(rows: int, dtype: torch.dtype, bits: int) -> None:
    """37 outputs in blocks of 16, and 300 inputs, which end within the third of a step's four groups.

    What lies around x is NaN.
    """
    weight, bias, x = (
        rounded(0, 37, 300, bits),
        random(1, 37, dtype=dtype),
        framed(random(2, rows, 300, dtype=dtype)),
    )
    close(run(x.inner, weight, bias), x.inner, weight, bias)


@pytest.mark.parametrize("rows", [1, 9])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("inputs", [1, 64, 65, 128, 512, 640, 1100])
@pytest.mark.parametrize("outputs", [1, 32, 33])
def test_takes_any_size(outputs: int, inputs: int, bits: int, rows: int) -> None:
    weight, x = rounded(0, outputs, inputs, bits), random(2, rows, inputs)
    close(run(x, weight, None, Block(8 if rows == 1 else 16, 32, 3)), x, weight, None)


def test_a_group_without_scale_is_its_offset() -> None:
    weight, x = rounded(0, 5, 256), random(2, 3, 256)
    weight.scale[:, 0] = 0
    weight.scale[2], weight.offset[2] = 0, 0
    y = run(x, weight)
    close(y, x, weight, None)
    assert (y[:, 2] == 0).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [0, 63, 64, 127, 128, 299])
@pytest.mark.parametrize("bits", [4, 8])
def test_what_is_not_finite_shows_in_its_own_row_alone(bits: int, place: int, value: float) -> None:
    weight, x = rounded(0, 37, 300, bits), random(2, 3, 300)
    clean = run(x, weight)
    x[1, place] = value
    y = run(x, weight)
    assert not y[1].isfinite().any()
    assert torch.equal(y[[0, 2]], clean[[0, 2]])


def test_rows_do_not_depend_on_each_other() -> None:
    """1 and 8 rows run the same instructions, and so do 9 and 64."""
    weight, x = rounded(0, 37, 300), random(2, 64, 300)
    assert torch.equal(run(x[:1], weight), run(x[:8], weight)[:1])
    assert torch.equal(run(x[:9], weight), run(x, weight)[:9])


@pytest.mark.parametrize("bits", [4, 8])
def test_a_layer_of_any_number_of_rows(bits: int) -> None:
    weight, bias = rounded(0, 37, 300, bits), random(1, 37)
    layer = PackedLinear(weight)
    assert layer.shape == (37, 300)
    assert layer.nbytes == 37 * 3 * (16 * bits + 4)
    for shape in ((1, 1), (70, 1), (2, 3)):
        x = random(2, *shape, 300)
        for some in (bias, None):
            y = layer(x, some)
            assert y.shape == (*shape, 37)
            close(y.view(-1, 37), x.view(-1, 300), weight, some)


# Gate and up


def run_gated(
    x: Tensor,
    gate: Codes,
    up: Codes,
    act: str,
    index: Tensor | None = None,
    biases: tuple[Tensor | None, Tensor | None] = (None, None),
    columns: int | None = None,
) -> Tensor:
    width = columns or (len(gate.codes) if index is None else len(index))
    out = framed(poisoned(len(x), width, dtype=x.dtype))
    packed = [PackedWeight.of(one) for one in (gate, up)]
    weights = [(one.codes, one.factors, bias) for one, bias in zip(packed, biases, strict=True)]
    launch_rows("quantized_gated", x, weights, index, 4, act, out.inner)
    assert out.frame_is_untouched()
    return out.inner


def gated_close(
    y: Tensor,
    x: Tensor,
    gate: Codes,
    up: Codes,
    act: str,
    biases: tuple[Tensor | None, Tensor | None] = (None, None),
) -> None:
    """As `close` of the unrounded kernels: the errors of both sums, and of the activation itself."""
    x, sums, errors = x.double(), [], []
    for weight, bias in zip((gate, up), biases, strict=True):
        wide = None if bias is None else bias.double()
        sums.append(reference.quantized_linear(x, weight, wide))
        terms = linear(x.abs(), magnitudes(weight), None if wide is None else wide.abs())
        errors.append(error_of(terms, x.shape[1]))
    gated = ACTS[act](sums[0])
    act_error = ACT_SLOPE * errors[0] + 8 * torch.finfo(torch.float32).eps * (1 + gated.abs())
    within(y, gated * sums[1], act_error * (sums[1].abs() + errors[1]) + gated.abs() * errors[1])


@case
def test_gated_equals_the_reference(rows: int, dtype: torch.dtype) -> None:
    """23 of 40 neurons. The scales of the others are NaN."""
    gate, up, index = rounded(0, 40, 300, scale=0.1), rounded(1, 40, 300, scale=0.1), shuffled(3, 40, 23)
    others = torch.ones(40, dtype=torch.bool).index_fill_(0, index, False)
    gate.scale[others], up.scale[others] = torch.nan, torch.nan
    x = framed(random(2, rows, 300, dtype=dtype)).inner
    gated_close(run_gated(x, gate, up, "silu", index), x, chosen(gate, index), chosen(up, index), "silu")


@pytest.mark.parametrize("biases", [(), ("gate",), ("up",), ("gate", "up")], ids=" ".join)
@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize("rows", [1, 9])
def test_every_activation_and_bias(rows: int, act: str, biases: tuple[str, ...]) -> None:
    gate, up, x = rounded(0, 20, 140, scale=0.1), rounded(1, 20, 140, scale=0.1), random(2, rows, 140)
    added = tuple(
        random(3 + place, 20) if one in biases else None for place, one in enumerate(("gate", "up"))
    )
    gated_close(run_gated(x, gate, up, act, None, added), x, gate, up, act, added)
    index = shuffled(3, 20, 7)
    some = tuple(None if bias is None else bias[index] for bias in added)
    y = run_gated(x, gate, up, act, index.int(), added)
    gated_close(y, x, chosen(gate, index), chosen(up, index), act, some)


@pytest.mark.parametrize("keep", [1, 15, 16, 17, 33])
def test_columns_beyond_the_neurons_are_zeroed(keep: int) -> None:
    """Even in a row that is not finite."""
    gate, up, x, index = rounded(0, 40, 140), rounded(1, 40, 140), random(2, 3, 140), shuffled(3, 40, keep)
    x[1, 3] = torch.inf
    y = run_gated(x, gate, up, "silu", index, (random(4, 40), random(5, 40)), columns=70)
    assert (y[:, keep:] == 0).all()
    assert (y[:, :keep] != 0).all()


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_a_gate_that_is_not_a_number_shows(act: str) -> None:
    gate, up, x = rounded(0, 4, 140), rounded(1, 4, 140), random(2, 2, 140)
    gate.offset[2, 1] = torch.nan
    assert run_gated(x, gate, up, act).isnan().tolist() == [[False, False, True, False]] * 2


def test_offsets_are_64_bit(tmp_path: Path) -> None:
    """The last neuron lies 2^31 bytes after the first, in a sparse file."""
    last = 2**25
    codes = torch.from_file(str(tmp_path / "codes"), shared=True, size=64 * (last + 1), dtype=torch.uint8)
    factors = torch.from_file(str(tmp_path / "factors"), shared=True, size=last + 1, dtype=torch.int32)
    codes, factors = codes.view(-1, 64), factors.view(-1, 1)
    codes[last], factors[last] = 0x11, 0x3F80  # ones, with scale 1 and offset 0
    out, index = poisoned(2, 1), torch.tensor([last])
    quantized_gated(torch.ones(2, 128), codes, factors, codes, factors, index, None, None, "relu", out)
    assert out.tolist() == [[128.0**2]] * 2


# As operators


def operands() -> tuple[tuple[object, ...], tuple[object, ...]]:
    gate, up = (PackedWeight.of(rounded(seed, 20, 140, scale=0.1)) for seed in (0, 1))
    x, biases = random(2, 2, 140), (random(4, 20), random(5, 20))
    index, out = shuffled(3, 20, 9), poisoned(2, 9)
    one = x, gate.codes, gate.factors, 4, biases[0], torch.zeros(2, 20)
    return one, (x, gate.codes, gate.factors, up.codes, up.factors, index, *biases, "silu", out.zero_())


@pytest.mark.parametrize("which", [0, 1], ids=["linear", "gated"])
def test_is_a_custom_operator(which: int) -> None:
    check_custom_op((quantized_linear, quantized_gated)[which], operands()[which])


WRONG = {
    "rows, not 65": {0: random(0, 65, 140)},
    "is one of torch.float16": {0: random(0, 2, 140).double()},
    "codes are torch.uint8": {1: torch.zeros(20, 128, dtype=torch.int8)},
    r"codes are \[20, 128\]": {3: torch.zeros(20, 64, dtype=torch.uint8)},
    "factors are torch.int32": {2: torch.zeros(20, 2)},
    "factors are contiguous": {2: torch.zeros(2, 20, dtype=torch.int32).t()},
    "index is int32 or int64": {5: torch.arange(9.0)},
    "a bias is": {6: random(0, 21)},
    "act is one of silu": {8: "tanh"},
    "out is": {9: poisoned(2, 8)},
}


@pytest.mark.parametrize("message", WRONG)
def test_refuses(message: str) -> None:
    arguments = list(operands()[1])
    for place, value in WRONG[message].items():
        arguments[place] = value
    with pytest.raises(AssertionError, match=message):
        quantized_gated(*arguments)


@pytest.mark.parametrize("matrices", [1, 2])
@pytest.mark.parametrize("bits", [4, 8])
def test_every_block_fits(bits: int, matrices: int) -> None:
    """Three programs' buffers, of which Triton allocates one fewer than stages, fit on a multiprocessor."""
    for rows in (1, 8, 9, 64):
        for columns in (1, 3584, 9472, 18944, 152064):
            size = block(rows, columns, matrices, bits)
            stage = 4 * (matrices * size.outputs * (16 * bits + 4) + size.rows * 256)
            assert size.stages >= 2
            assert (size.stages - 1) * stage <= SHARED or size.stages == 2
